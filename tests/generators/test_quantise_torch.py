"""``flowlit quantise --into FILE.pt2``: integers by torchao, run where flowlit is not; what is refused."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from tools import randomise, tiny_unet

import flowlit
from flowlit._support import extras as packages
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.quantisation import Settings, quantise
from flowlit.generators.quantisation import write as writing
from flowlit.solvers import Euler

pytestmark = pytest.mark.usefixtures("untraced")


def small(**arguments):
    network = tiny_unet(multipliers=(1,), attention_resolutions=(), width=16, **arguments)
    return Generator(randomise(network, 1), Euler(1), Pixels())


def settings(**changes):
    return Settings(**{"calibrate": 64, "num": 16, **changes})


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


CHANGES = {
    "--budget": {"budget": 100_000},
    "--budget of time": {"milliseconds": 2.0},
    "--bits 4": {"bits": 4},
    "--activations 32": {"activations": 32},
    "--by": {"by": "pixels"},
    "--coefficients": {"fit": "paired"},
}


@pytest.mark.parametrize(("option", "changes"), CHANGES.items(), ids=CHANGES)
def test_options_of_onnx_files_are_refused_before_any_work(option, changes, tmp_path):
    with pytest.raises(FlowlitError, match=rf"{option.split(' of')[0]} is for --into FILE\.onnx"):
        quantise(small(), tmp_path / "g.pt2", settings(**changes))
    assert left(tmp_path) == []


def test_without_torchao_the_extra_is_named_before_any_work(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(FlowlitError, match=r"torchao cannot be imported .*pip install 'flowlit\[export\]'"):
        quantise(small(), tmp_path / "g.pt2", settings())
    assert left(tmp_path) == []


def test_files_that_exist_stay(tmp_path):
    (tmp_path / "g.pt2").write_text("mine")
    with pytest.raises(FlowlitError, match=r"g\.pt2 exists"):
        quantise(small(), tmp_path / "g.pt2", settings())
    assert left(tmp_path) == ["g.pt2"]


ELSEWHERE = """
import sys; sys.modules["flowlit"] = None
import numpy, torch, torchao
program = torch.export.load("g.pt2")
module = program.module()
noise, label = (torch.from_numpy(numpy.load(name)) for name in ("noise.npy", "label.npy"))
images, x1 = module(noise, label)
one, _ = module(noise[:1], label[:1])
types = [str(value.dtype) for value in program.state_dict.values()]
sizes = [value.numel() for value in program.state_dict.values() if value.dtype == torch.float32]
numpy.savez("found.npz", images=images.numpy(), x1=x1.numpy(), one=one.numpy(), types=types, sizes=sizes)
"""


@pytest.mark.slow
def test_a_program_with_integers_is_run_where_flowlit_is_not(tmp_path, monkeypatch):
    pytest.importorskip("torchao", reason="flowlit[export] is not installed: torchao")
    monkeypatch.setattr(writing, "kept_layers", lambda subject: ["network.stem"])
    generator = small(num_classes=3)
    done = quantise(generator, tmp_path / "g.pt2", settings(), licence="MIT")
    assert left(tmp_path) == ["g.pt2", "g.pt2.json"]
    report = json.loads((tmp_path / "g.pt2.json").read_text())
    sample = writing.sampled(generator, writing.run_program(done.into), 16, 0)
    np.save(tmp_path / "noise.npy", sample.noise.numpy())
    np.save(tmp_path / "label.npy", sample.label.numpy())
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    difference = torch.from_numpy(found["x1"]).double() - sample.before.x1.double()
    power = float(difference.square().sum() / sample.before.x1.double().square().sum())
    assert power == pytest.approx(report["parity"]["noise_power"], rel=0.02)
    assert 1e-8 < power < 0.01
    levels = np.abs(found["images"].astype(int) - sample.before.images.numpy().astype(int))
    assert levels.mean() == pytest.approx(report["parity"]["levels"]["mean"], rel=0.05)
    assert found["one"].shape == (1, *found["images"].shape[1:])
    layers = [
        name
        for name, module in generator.network.named_modules()
        if isinstance(module, torch.nn.Conv2d)
        or (isinstance(module, torch.nn.Linear) and "attention" in name)  # others are of the time path
    ]
    assert list(found["types"]).count("torch.int8") == len(layers) - 1, "all but the stem"
    assert max(found["sizes"]) < 16 * 16 * 9, "no weight of a convolution is left in float32"
    assert report["bytes"]["export"] == done.into.stat().st_size
    facts = report["facts"]
    assert facts["licence"] == "MIT" and facts["quantisation"]["float32"] == ["network.stem"]
    assert report["form"] == "torch" and "layers" not in report and "torchao" in report["versions"]
    with zipfile.ZipFile(done.into) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".json"))
    assert b"flowlit/networks" not in text, "no names of this machine's files"
    with pytest.raises(FlowlitError, match="may hold code"):
        flowlit.load(done.into)


@pytest.mark.slow
def test_the_command_says_what_stays_in_float32(cli, tmp_path):
    pytest.importorskip("torchao", reason="flowlit[export] is not installed: torchao")
    small().save(tmp_path / "g.safetensors")
    words = ("quantise", tmp_path / "g.safetensors", "--num", 8, "--calibrate", 64)
    outcome = cli(*words, "--into", tmp_path / "g.pt2")
    assert outcome.code == 0, outcome.err
    assert "8 bits by torchao" in outcome.out and "float32 .pt2" in outcome.out
    assert "Enum" not in outcome.err and "CUDA" not in outcome.err
    assert "torch, torchao" in outcome.out and (tmp_path / "g.pt2.json").is_file()
