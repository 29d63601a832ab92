"""``flowlit quantise``: files with integers, within a budget, loaded again; and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from tools import Mean, randomise, tiny_unet
from torch import nn

import flowlit
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export.fold import folded
from flowlit.generators.quantisation import Settings, quantise, work
from flowlit.generators.quantisation import write as writing
from flowlit.generators.quantisation.graph import Graph, raised
from flowlit.generators.quantisation.subject import Subject
from flowlit.generators.quantisation.timing import by_layer, fastest, one_image
from flowlit.metrics.base import Reference
from flowlit.solvers import Euler, Heun


class Small(nn.Module):
    """Three layers of different weight for the image."""

    shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 1, 3, padding=1)
        self.requires_grad_(False)

    def forward(self, x, t, cond={}):
        return self.last(self.second(self.first(x).relu()).relu())


def small(solver=None):
    return Generator(Small(), solver or Euler(1), Pixels())


def by_hand(generator, facts):
    """The ONNX file of a small generator; PyTorch's own exporter takes seconds."""
    onnx = pytest.importorskip("onnx", reason="flowlit[export] is not installed")
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    state = {name: tensor.numpy() for name, tensor in generator.network.state_dict().items()}
    pairs = getattr(generator.solver, "scales", None) or [[1.0, 1.0]]
    numbers = {"a": pairs[0][0], "b": pairs[0][1], "half": 127.5, "low": 0, "high": 255}
    state |= {name: np.float32(number) for name, number in numbers.items()}

    def conv(name, before, after):
        return make("Conv", [before, f"{name}.weight", f"{name}.bias"], [after], name, pads=[1] * 4, group=1)

    nodes = [
        conv("first", "noise", "h0"),
        make("Relu", ["h0"], ["h1"]),
        conv("second", "h1", "h2"),
        make("Relu", ["h2"], ["h3"]),
        conv("last", "h3", "v"),
        make("Mul", ["noise", "a"], ["x"]),
        make("Mul", ["v", "b"], ["move"]),
        make("Add", ["x", "move"], ["x1"]),
        make("Mul", ["x1", "half"], ["scaled"]),
        make("Add", ["scaled", "half"], ["moved"]),
        make("Round", ["moved"], ["rounded"]),
        make("Clip", ["rounded", "low", "high"], ["levels"]),
        make("Cast", ["levels"], ["images"], to=onnx.TensorProto.UINT8),
    ]
    shape = ["batch", 1, 8, 8]
    ends = [value("noise", 1, shape)], [value("images", 2, shape), value("x1", 1, shape)]
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in state.items()]
    graph = onnx.helper.make_graph(nodes, "small", *ends, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString(), {}


@pytest.fixture
def fast(monkeypatch):
    pytest.importorskip("onnxruntime", reason="flowlit[export] is not installed")
    monkeypatch.setattr(work, "onnx_bytes", by_hand)


def settings(**changes):
    return Settings(**{"calibrate": 64, "num": 16, **changes})


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_eight_bits_are_loaded_and_make_nearly_the_same_images(fast, tmp_path):
    generator = small()
    done = quantise(generator, tmp_path / "g.onnx", settings(), licence="MIT")
    assert left(tmp_path) == ["g.onnx", "g.onnx.json", "g.onnx.png"]
    again = flowlit.load(done.into)
    difference = again.sample(8, seed=3).int() - generator.sample(8, seed=3).int()
    assert 0 < difference.abs().max() < 20
    report = json.loads((tmp_path / "g.onnx.json").read_text())
    assert report["parity"]["noise_power"] < 1e-3 and report["bytes"]["export"] == done.into.stat().st_size
    assert report["bytes"]["float32"] > 2 * report["bytes"]["export"]
    assert [layer["bits"] for layer in report["layers"]] == [8, 8, 8]
    facts = report["facts"]
    assert facts["licence"] == "MIT" and facts["quantisation"]["activations"] == 8
    assert again.network.facts["quantisation"] == facts["quantisation"]


def test_a_budget_is_kept_by_bits_of_layers_and_twice_the_same(fast, tmp_path):
    sizes = {}
    for bits in (4, 8):
        done = quantise(small(), tmp_path / f"{bits}.onnx", settings(bits=bits))
        sizes[bits] = done.report["bytes"]["export"]
    budget = (sizes[4] + sizes[8]) // 2
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    reports = [quantise(small(), file, settings(budget=budget)).report for file in files]
    assert files[0].read_bytes() == files[1].read_bytes() and files[0].stat().st_size <= budget
    bits = {layer["name"]: layer["bits"] for layer in reports[0]["layers"]}
    assert bits["second"] == 4 and max(bits["first"], bits["last"]) > 4
    uniform = json.loads((tmp_path / "4.onnx.json").read_text())
    assert reports[0]["parity"]["noise_power"] < uniform["parity"]["noise_power"] / 1.5
    with pytest.raises(FlowlitError, match=r"below the least: .*expected --budget \d+kB or more"):
        quantise(small(), tmp_path / "c.onnx", settings(budget=3000))
    assert not (tmp_path / "c.onnx").exists()


def test_a_budget_of_time_is_measured(fast, tmp_path):
    done = quantise(small(), tmp_path / "a.onnx", settings(milliseconds=1e6))
    assert [layer["bits"] for layer in done.report["layers"]] == [32, 32, 32] and done.report[
        "budget_ms"
    ] == 1e6
    with pytest.raises(FlowlitError, match=r"1e-06ms is below the least: .* expected --budget \S+ms or more"):
        quantise(small(), tmp_path / "b.onnx", settings(milliseconds=1e-6))
    assert left(tmp_path) == ["a.onnx", "a.onnx.json", "a.onnx.png"]


def test_times_of_layers_are_in_the_profile(fast, tmp_path):
    generator = small()
    subject = Subject(folded(generator).generator, 4, 1, None)
    graph = Graph(raised(by_hand(subject.generator, {})[0]), subject.layers)
    inputs = one_image(subject.noise[0])
    for bits in (4, 8, 32):
        file = graph.integers(dict.fromkeys(graph.found, bits), subject.ranges(), {}, named=True)
        times = by_layer(file, inputs, graph.found)
        assert list(times) == sorted(graph.found, key=len, reverse=True) and min(times.values()) > 0
        assert sum(times.values()) < 100 * fastest(file, inputs)


def test_a_result_that_is_used_twice_has_two_names(fast):
    """As a velocity that takes part in two steps of Adams."""
    onnx = pytest.importorskip("onnx")
    subject = Subject(small(), 4, 1, None)
    model = onnx.load_from_string(by_hand(small(), {})[0])
    place = [node.output[0] for node in model.graph.node].index("x1")
    model.graph.node[place].input[1] = "both"
    model.graph.node.insert(place, onnx.helper.make_node("Add", ["move", "further"], ["both"]))
    model.graph.node.insert(place, onnx.helper.make_node("Mul", ["v", "half"], ["further"]))
    graph = Graph(raised(model.SerializeToString()), subject.layers)
    for bits in (8, 32):
        file = graph.integers(dict.fromkeys(graph.found, bits), {}, {}, named=True)
        assert min(by_layer(file, one_image(subject.noise[0]), graph.found).values()) > 0


@pytest.mark.parametrize("fit", ["paired", "moments", "features"])
def test_coefficients_stand_in_the_file(fit, fast, tmp_path):
    one = settings(bits=4, fit=fit, num=64)
    done = quantise(small(), tmp_path / "g.onnx", one, features=Mean())
    ((a, b),) = done.report["coefficients"]["scales"]
    assert (a, b) != (1, 1) and done.report["facts"]["solver"]["init_args"]["scales"] == [[a, b]]
    plain = quantise(small(), tmp_path / "h.onnx", settings(bits=4, fit="none", num=64), features=Mean())
    x0 = small().noise([1, 2])
    move = flowlit.load(plain.into).solve(x0).x1 - x0
    torch.testing.assert_close(flowlit.load(done.into).solve(x0).x1, a * x0 + b * move, atol=1e-4, rtol=0)
    if fit == "paired":
        assert done.report["parity"]["noise_power"] < 1.1 * plain.report["parity"]["noise_power"]


def test_distances_from_real_images(fast, tmp_path):
    reference = Reference(torch.zeros(2).double(), torch.eye(2).double(), 0, {}, tmp_path / "real.npz")
    done = quantise(small(), tmp_path / "g.onnx", settings(), features=Mean(), reference=reference)
    real = done.report["parity"]["features"]["reference"]
    assert real["file"] == "real.npz" and real["before"] > 0 and real["after"] > 0
    assert all(layer["harm"]["4"]["features"] > 0 for layer in done.report["layers"])
    other = reference._replace(mean=torch.zeros(3).double(), cov=torch.eye(3).double())
    with pytest.raises(FlowlitError, match="3"):
        quantise(small(), tmp_path / "h.onnx", settings(), features=Mean(), reference=other)
    wrong = reference._replace(protocol={"shape": [3, 32, 32]})
    with pytest.raises(FlowlitError, match="contradicts this run"):
        quantise(small(), tmp_path / "h.onnx", settings(), features=Mean(), reference=wrong)
    assert not (tmp_path / "h.onnx").exists()


def test_a_full_disk_leaves_nothing(fast, tmp_path, monkeypatch):
    def full(path, *arguments):
        raise OSError(28, "No space left on device")

    for name in ("write_atomically", "write_figure"):
        with monkeypatch.context() as patch:
            patch.setattr(writing, name, full)
            with pytest.raises(FlowlitError, match="No space left on device"):
                quantise(small(), tmp_path / "g.onnx", settings())
        assert left(tmp_path) == []


BAD = {
    "an ending": (lambda: small(), "g.safetensors", {}, r"ends in \.onnx or \.pt2"),
    "features": (lambda: small(), "g.onnx", {"by": "both"}, "need --features"),
    "coefficients": (lambda: small(Heun(1)), "g.onnx", {"fit": "paired"}, "those of Euler's steps"),
    "no layers": (lambda: replaced(nn.Identity()), "g.onnx", {}, "no convolution or linear layer"),
}


def replaced(network):
    network.shape = (1, 8, 8)
    return Generator(network, Euler(1), Pixels())


@pytest.mark.parametrize(("make", "name", "changes", "expected"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused(make, name, changes, expected, fast, tmp_path):
    with pytest.raises(FlowlitError, match=expected):
        quantise(make(), tmp_path / name, settings(**changes))
    assert left(tmp_path) == []
    (tmp_path / "g.onnx.png").write_text("mine")
    with pytest.raises(FlowlitError, match=r"g\.onnx\.png exists"):
        quantise(small(), tmp_path / "g.onnx", settings())


def test_a_graph_without_the_weights_is_refused(fast, tmp_path, monkeypatch):
    other = replaced(randomise(Small(), 5))
    monkeypatch.setattr(work, "onnx_bytes", lambda generator, *rest: by_hand(other, *rest))
    with pytest.raises(FlowlitError, match="no layer of the network stands in its graph"):
        quantise(small(), tmp_path / "g.onnx", settings(fit="none"))
    assert left(tmp_path) == []


WRONG = [
    (("--into", "a.onnx", "--budget", "four"), "expected a size, as 4MB or 150kB, or a time"),
    (("--into", "a.onnx", "--budget", "4MB", "--bits", "4"), "leave one out"),
    (("--into", "a.txt"), "ends in .onnx"),
    (("--into", "a.onnx", "--bits", "5"), "bits"),
    (("--into", "a.onnx", "--reference", "none.npz"), "do not exist"),
    (("--into", "a.onnx"), "none.ckpt"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_line(words, expected, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = cli("quantise", "none.ckpt", *words)
    assert outcome.code in (1, 2) and expected in outcome.err and "Traceback" not in outcome.err
    assert left(tmp_path) == []


@pytest.mark.slow
def test_the_command_on_a_network_with_labels(cli, tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    network = tiny_unet(multipliers=(1,), attention_resolutions=(8,), num_classes=3, width=16)
    Generator(randomise(network, 1), Euler(1), Pixels()).save(tmp_path / "g.safetensors")
    words = ("quantise", tmp_path / "g.safetensors", "--num", 16, "--calibrate", 32)
    outcome = cli(*words, "--budget", "60kB", "--coefficients", "paired", "--into", tmp_path / "g.onnx")
    assert outcome.code == 0, outcome.err
    assert "network.stem" in outcome.out and "times smaller than the same in float32" in outcome.out
    assert "coefficients of state and velocity, paired:" in outcome.out
    assert (tmp_path / "g.onnx").stat().st_size <= 60_000
    shutil.rmtree(tmp_path / "images", ignore_errors=True)
    made = cli("sample", tmp_path / "g.onnx", "--num", 4, "--into", tmp_path / "images")
    assert made.code == 0, made.err
