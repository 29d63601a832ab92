"""Exported files, used by programs in whose process flowlit cannot be imported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tools import randomise, tiny_unet

from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.generators.export import export
from flowlit.solvers import Euler

ELSEWHERE = """
import sys; sys.modules["flowlit"] = None
import json, numpy, onnxruntime, torch
from safetensors import safe_open
noise = numpy.load("noise.npy")
found = {"onnx": onnxruntime.InferenceSession("g.onnx").run(["images"], {"noise": noise})[0]}
found["torch"] = torch.export.load("g.pt2").module()(torch.from_numpy(noise))[0].numpy()
with safe_open("g.safetensors", "np") as file:
    found["stem"] = file.get_tensor("network.stem.weight")
    facts = json.loads(file.metadata()["flowlit"])
assert facts["export"]["outputs"]["images"]["type"] == "uint8"
numpy.savez("found.npz", **found)
"""


@pytest.mark.slow
def test_files_are_used_where_flowlit_is_not(tmp_path):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason="flowlit[export] is not installed")
    network = randomise(tiny_unet(multipliers=(1,), attention_resolutions=()), 1)
    generator = Generator(network, Euler(1), Pixels())
    for to, ending in (("onnx", ".onnx"), ("torch", ".pt2"), ("safetensors", ".safetensors")):
        export(generator, to, tmp_path / f"g{ending}", num=2)
    noise = generator.noise([3, 4, 5])
    np.save(tmp_path / "noise.npy", noise.numpy())
    subprocess.run([sys.executable, "-I", "-c", ELSEWHERE], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        expected = generator(noise).int().numpy()
    for form in ("onnx", "torch"):
        assert np.abs(found[form].astype(int) - expected).max() <= 1, form
    assert np.array_equal(found["stem"], network.stem.weight.detach().numpy())
