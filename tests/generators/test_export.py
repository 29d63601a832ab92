"""Exported generators: compared with their checkpoint, described, and run by programs that lack flowlit."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from matrix import few
from tools import randomise, tiny_unet

import flowlit
from flowlit._support import extras as packages
from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export import export, torch_file
from flowlit.generators.export import write as writing
from flowlit.generators.export.facts import licence_beside, recorded
from flowlit.generators.export.fold import folded, times_of
from flowlit.networks import ClassifierFreeGuidance, ConcatenatedImage
from flowlit.solvers import RK45, SDE, Euler, Heun, OneStep, ReNoise

NAMES = ("cat", "dog", "emu")

pytestmark = pytest.mark.usefixtures("untraced")


def one_step(**arguments):
    return Generator(randomise(tiny_unet(**arguments), 1), Euler(1), Pixels())


def flat(**arguments):
    """A network of one level, whose graph is made in seconds."""
    return randomise(tiny_unet(multipliers=(1,), attention_resolutions=(), **arguments), 1)


def guided(solver):
    network = ClassifierFreeGuidance(flat(num_classes=3, label_dropout=0.1), 2.0)
    return Generator(network, solver, Pixels(), class_names=NAMES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    network = randomise(tiny_unet(num_classes=3, label_dropout=0.1), 1)
    Generator(network, Euler(1), Pixels(), class_names=NAMES).save(path)
    path.with_suffix(".md").write_text("| made | by a test |\n| licence | Apache-2.0 |\n")
    return path


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_weights_without_a_time_path_are_loaded_again(checkpoint, tmp_path):
    generator = flowlit.load(checkpoint)
    done = export(generator, "safetensors", tmp_path / "out" / "s.safetensors", num=8)
    again = flowlit.load(done.into)
    difference = generator.sample(12, seed=5).int() - again.sample(12, seed=5).int()
    assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 1e-3
    assert again.class_names == NAMES and done.fold.removed > 0.05
    assert left(done.into.parent) == ["s.safetensors", "s.safetensors.json"]
    report = json.loads((tmp_path / "out" / "s.safetensors.json").read_text())
    assert report["parity"]["levels"]["max"] <= 1 and report["parity"]["images"] == 8
    facts = report["facts"]
    assert facts["licence"] == "Apache-2.0" and facts["class_names"] == list(NAMES) and facts["no_label"] == 3
    assert facts["source"]["file"] == "student.safetensors" and len(facts["source"]["sha256"]) == 64
    assert facts["inputs"]["label"]["values"] == [0, 2] and facts["outputs"]["images"]["values"] == [0, 255]
    with pytest.raises(FlowlitError, match=r"folded for t = 0\.0"):
        flowlit.load(done.into, solver=Euler(2)).sample(1)


@pytest.mark.parametrize(
    ("solver", "calls", "times"),
    [(Euler(1), 1, 1), (OneStep(0.5), 1, 1), (Heun(2), 4, 3), (Euler(3), 3, 3)],
    ids=str,
)
def test_only_generators_of_one_time_are_folded(solver, calls, times):
    generator = replace(one_step(), solver=solver)
    assert len(times_of(generator)) == calls
    result = folded(generator)
    assert (result.removed > 0) == (times == 1)
    if times > 1:
        assert result.generator is generator and f"at {times} times" in result.why


BAD = {
    "an adaptive solver": (lambda: replace(one_step(), solver=RK45()), "RK45 chooses its steps"),
    "noise on the way": (lambda: replace(one_step(), solver=SDE(3)), "SDE draws noise"),
    "new noise": (lambda: replace(one_step(), solver=ReNoise(3)), "ReNoise draws noise"),
    "an image to read": (
        lambda: Generator(ConcatenatedImage(tiny_unet()), Euler(1), Pixels()),
        "not of super-resolution",
    ),
    "no shape": (lambda: Generator(torch.nn.Identity(), Euler(1), Pixels()), "no attribute `shape`"),
}


@pytest.mark.parametrize(("make", "expected"), BAD.values(), ids=BAD)
def test_what_no_graph_can_hold_is_refused_before_any_work(make, expected, tmp_path):
    with pytest.raises(FlowlitError, match=expected):
        export(make(), "onnx", tmp_path / "g.onnx")
    assert left(tmp_path) == []


def test_files_that_exist_stay_and_names_have_to_fit(tmp_path):
    (tmp_path / "g.onnx").write_text("mine")
    with pytest.raises(FlowlitError, match=r"g\.onnx exists"):
        export(one_step(), "onnx", tmp_path / "g.onnx")
    (tmp_path / "h.onnx.json").write_text("mine")
    with pytest.raises(FlowlitError, match=r"h\.onnx\.json exists"):
        export(one_step(), "onnx", tmp_path / "h.onnx")
    with pytest.raises(FlowlitError, match=r"--to torch ends in \.pt2"):
        export(one_step(), "torch", tmp_path / "g.onnx")
    assert left(tmp_path) == ["g.onnx", "h.onnx.json"]


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_atomically", full)
    with pytest.raises(FlowlitError, match="No space left on device"):
        export(flowlit.load(checkpoint), "safetensors", tmp_path / "s.safetensors", num=2)
    assert left(tmp_path) == []


def test_an_export_that_makes_other_images_is_not_kept(checkpoint, tmp_path, monkeypatch):
    generator = flowlit.load(checkpoint)
    other = writing.original(Generator(randomise(tiny_unet(num_classes=3), 2), Euler(1), Pixels()))
    monkeypatch.setitem(writing.RUNNERS, "safetensors", lambda file: other)
    with pytest.raises(FlowlitError, match=r"makes other images: x1 differs by up to .*not kept"):
        export(generator, "safetensors", tmp_path / "s.safetensors", num=2)
    assert left(tmp_path) == []


def test_a_missing_package_names_the_extra(checkpoint, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(FlowlitError, match=r"onnx cannot be imported .*pip install 'flowlit\[export\]'"):
        export(flowlit.load(checkpoint), "onnx", tmp_path / "s.onnx")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n", "mit"),
        ("| licence | that of CC, 2020 |\n", "that of CC, 2020"),
        ("no", None),
    ],
)
def test_the_licence_of_a_card(card, licence, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert licence_beside(tmp_path / "model.safetensors") == licence


def test_measurements_of_the_same_weights_are_found_beside_a_run(tmp_path):
    report = {"format": "flowlit-metrics", "version": 2, "metrics": {"fid/euler1": 3.5}, "sha256": "a" * 64}
    for name, changes in (("test", {"images": 50_000}), ("other", {"sha256": "b" * 64})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({**report, **changes}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "metrics.json").write_text("{")
    found = recorded(tmp_path / "run" / "checkpoints" / "last.ckpt", "a" * 64)
    assert [(each["report"], each["metrics"], each["images"]) for each in found] == [
        ("test/metrics.json", {"fid/euler1": 3.5}, 50_000)
    ]


class Deciding(torch.nn.Module):
    """A network that no graph can follow."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.inside = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), Sign())

    def forward(self, x, t, cond={}):
        return self.inside(x)


class Sign(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.slow
def test_a_layer_that_cannot_be_followed_is_named(tmp_path):
    generator = Generator(Deciding(), Euler(1), Pixels())
    with pytest.raises(FlowlitError, match=r"the layer network\.inside\.1 \(Sign\) cannot be followed"):
        export(generator, "torch", tmp_path / "g.pt2")
    assert left(tmp_path) == []


class Unknown(torch.nn.Module):
    """A network with an operator that ONNX lacks."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)
        self.odd = Bessel()

    def forward(self, x, t, cond={}):
        return self.odd(self.layer(x))


class Bessel(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j1(x)


@pytest.mark.slow
def test_an_operator_that_onnx_lacks_is_named_with_its_layer(tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    with pytest.raises(FlowlitError, match=r"no operator for .*bessel_j1.* of the layer network\.odd"):
        export(Generator(Unknown(), Euler(1), Pixels()), "onnx", tmp_path / "g.onnx")
    assert left(tmp_path) == []


GENERATORS = {
    "labels, guidance, steps": lambda: guided(Heun(1)),
    "a codec of another shape": lambda: Generator(flat(in_channels=4), Euler(1), Patches()),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_onnx_is_run_by_onnxruntime_alone(make, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="flowlit[export] is not installed")
    onnx = pytest.importorskip("onnx", reason="flowlit[export] is not installed")
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    generator = make()
    done = export(generator, "onnx", tmp_path / "g.onnx", num=8)
    onnx.checker.check_model(str(done.into), full_check=True)
    session = runtime.InferenceSession(str(done.into))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["flowlit"])
    assert metadata["onnx"] == done.report["onnx"] and metadata["outputs"] == done.report["facts"]["outputs"]
    for rows in (1, 5):
        noise = generator.noise(list(range(rows)))
        label = torch.arange(rows) % 3
        cond = {"label": label} if generator.num_classes else {}
        inputs = {"noise": noise.numpy(), **{name: value.numpy() for name, value in cond.items()}}
        images, x1 = session.run(["images", "x1"], inputs)
        expected = generator.solve(noise, cond).x1
        torch.testing.assert_close(torch.from_numpy(x1), expected, rtol=0, atol=1e-4)
        assert (torch.from_numpy(images).int() - generator(noise, cond).int()).abs().max() <= 1
    again = flowlit.load(done.into)
    assert (again.sample(4, seed=1).int() - generator.sample(4, seed=1).int()).abs().max() <= 1
    assert again.class_names == generator.class_names
    lying(done.into, onnx)


def lying(path, onnx):
    """Change what a file says of itself, or is: each is one error."""
    model = onnx.load(str(path))
    facts = json.loads(model.metadata_props[0].value)

    def error(change):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        change(other)
        file = path.with_name("other.onnx")
        file.write_bytes(other.SerializeToString())
        with pytest.raises(FlowlitError) as raised:
            flowlit.load(file)
        return str(raised.value)

    def says(**changes):
        def change(other):
            other.metadata_props[0].value = json.dumps({**facts, **changes})

        return change

    def shapes(other):
        other.graph.input[0].type.tensor_type.shape.dim[2].dim_value += 2

    assert "flowlit did not write" in error(lambda other: other.ClearField("metadata_props"))
    assert "install a newer flowlit" in error(says(version=9))
    assert "is no description of an export" in error(says(inputs=3))
    assert "but it says" in error(says(inputs={"noise": {"shape": ["batch", 9, 9, 9], "type": "float32"}}))
    assert "but it says" in error(shapes) or "cannot be run" in error(shapes)
    torn = path.with_name("torn.onnx")
    torn.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FlowlitError, match="cannot be run by onnxruntime"):
        flowlit.load(torn)
    with pytest.raises(FlowlitError, match="leave solver, network, weights out"):
        flowlit.load(path, solver=Euler(3))


@pytest.mark.slow
def test_a_program_of_torch_export_takes_any_batch(tmp_path):
    generator = Generator(flat(), Euler(1), Pixels())
    done = export(generator, "torch", tmp_path / "g.pt2", num=8)
    program = torch.export.load(str(done.into)).module()
    for rows in (1, 5):
        images, _ = program(generator.noise(list(range(rows))))
        assert (images.int() - generator(generator.noise(list(range(rows)))).int()).abs().max() <= 1
    with pytest.raises(FlowlitError, match="may hold code"):
        flowlit.load(done.into)


class Small(torch.nn.Module):
    """A network that is compiled soon."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t, cond={}):
        return self.layer(x).tanh()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_a_compiled_package_takes_any_batch_and_says_what_it_is(cli, tmp_path):
    generator = Generator(Small(), Euler(2), Pixels())
    done = export(generator, "compiled", tmp_path / "g.pt2", num=8)
    assert left(tmp_path) == ["g.pt2", "g.pt2.json"]
    package = torch._inductor.aoti_load_package(str(done.into))
    for rows in (1, 5):
        images, x1 = package(generator.noise(list(range(rows))))
        assert (images.int() - generator(generator.noise(list(range(rows)))).int()).abs().max() <= 1
        assert x1.dtype == torch.float32
    facts = json.loads(package.get_metadata()["flowlit"])
    assert facts == json.loads(json.dumps(done.report["facts"])) and facts["nfe"] == 2
    with pytest.raises(FlowlitError, match="may hold code"):
        flowlit.load(done.into)


def test_without_a_compiler_nothing_is_compiled_and_a_torn_package_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "torn.pt2").write_bytes(b"PK")
    with pytest.raises(FlowlitError, match=r"torn\.pt2 is torn, or no package of AOTInductor"):
        torch_file.open_package(tmp_path / "torn.pt2")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(FlowlitError, match=r"there is no no-such-compiler .*use --to torch"):
        export(Generator(Small(), Euler(1), Pixels()), "compiled", tmp_path / "g.pt2")
    assert left(tmp_path) == ["torn.pt2"]


def test_the_command_prints_what_was_folded_and_compared(cli, checkpoint, tmp_path):
    outcome = cli(
        "export", checkpoint, "--to", "safetensors", "--into", tmp_path / "s.safetensors", "--num", 4
    )
    assert outcome.code == 0, outcome.err
    assert "time path: folded into constants at t = 0" in outcome.out
    assert "licence: Apache-2.0" in outcome.out and "4 images of seed 0: x1 differs by" in outcome.out


WRONG = [
    (("--to", "onnx", "--into", "a.onnx", "--solver", "Huen"), "did you mean Heun"),
    (("--to", "onnx", "--into", "a.onnx", "--solver", "Heun", "--nfe", 3), "nfe is 3"),
    (("--to", "onnx", "--into", "a.txt"), "ends in .onnx"),
    (("--to", "tflite", "--into", "a.onnx"), "onnx"),
    (("--to", "onnx", "--into", "a.onnx", "--num", 0), "num"),
    (("--to", "onnx", "--into", "a.onnx", "--features", "Inceptoin"), "Inceptoin"),
]


@pytest.mark.parametrize(("words", "expected"), few(WRONG, 3), ids=str)
def test_wrong_words_are_one_error(cli, checkpoint, words, expected):
    assert expected in cli("export", checkpoint, *words).error


def test_a_checkpoint_of_a_newer_version_is_refused(cli, checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    newer = tmp_path / "newer.safetensors"
    shutil.copy(checkpoint, newer)
    facts = json.dumps({"weights": "only", "version": "9.0"})
    save_file(load_file(newer), newer, {"flowlit": facts})
    error = cli("export", newer, "--to", "onnx", "--into", tmp_path / "a.onnx").error
    assert "written by flowlit 9.0" in error and left(tmp_path) == ["newer.safetensors"]
