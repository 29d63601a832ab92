"""Exports of super-resolution: the graph's image and t against ``flowlit upscale``."""

from dataclasses import replace

import pytest
import torch
from sharper import Sharper, photo, sharper
from tools import randomise

import flowlit
from flowlit.couplings import NoisedImage
from flowlit.data import AveragePool, Bicubic, Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export import enlarging, export, program
from flowlit.generators.tiles import NoiseField
from flowlit.generators.upscaling import describe_task, upscaler_of
from flowlit.networks import ConcatenatedImage, UNet
from flowlit.solvers import Euler, OneStep


@pytest.mark.parametrize("t", [0.0, 0.7])
@pytest.mark.parametrize("degradation", [AveragePool(4), Bicubic(2)], ids=["pool", "bicubic"])
def test_a_program_is_one_tile_of_upscale_at_any_t(degradation, t):
    generator = sharper(degradation)
    small = photo(3, 16 // degradation.scale, 16 // degradation.scale)
    expected = upscaler_of(generator, t, None, seed=3)(small)
    noise = NoiseField(3, 3)(slice(0, 16), slice(0, 16))[None]
    _, x1 = program.program_of(generator)(noise, degradation.enlarge(small[None]) * 2 - 1, torch.tensor([t]))
    torch.testing.assert_close(((x1[0] + 1) / 2).clamp(0, 1), expected, atol=1e-6, rtol=0)


def test_what_an_export_of_super_resolution_cannot_hold_is_refused(tmp_path):
    nameless = Generator(randomise(Sharper(), 1), OneStep(), Pixels())
    latent = replace(sharper(channels=12), codec=Patches())
    low = sharper()
    low.network.reads = frozenset({"image", "lr"})

    class Strange(AveragePool):
        def enlarge(self, images):
            return super().enlarge(images).square()

    for generator, to, found in (
        (nameless, "onnx", "the checkpoint is not of super-resolution"),
        (latent, "web", r"has the codec Patches"),
        (low, "onnx", "reads lr, too"),
        (sharper(), "torch", "reads image, and this form takes noise and labels alone"),
    ):
        with pytest.raises(FlowlitError, match=found):
            export(generator, to, tmp_path / {"onnx": "a.onnx", "torch": "a.pt2"}.get(to, "site"))
    with pytest.raises(FlowlitError, match="enlarges images in a way of its own"):
        enlarging.line_of(Strange(4))
    assert not list(tmp_path.iterdir())


def test_t_stays_an_input_and_other_solvers_have_none():
    student = sharper()
    teacher = sharper(solver=Euler(2))
    assert program.names_of(student) == ("noise", "image", "t")
    assert program.names_of(teacher) == ("noise", "image")
    assert enlarging.task_facts(student)["t"] == 0.5 and enlarging.task_facts(teacher)["t"] is None
    given = enlarging.inputs_to_compare(student, torch.randn(5, 3, 16, 16))
    assert given[0].shape == (5, 3, 16, 16) and given[0].std() > 0.3 and given[0].abs().max() < 1.5
    assert given[1].tolist() == [0, 0.25, 0.5, 0.75, 1]
    unlike = program.example(student)
    assert unlike[0] is not unlike[1]  # torch.export takes one tensor for one input


@pytest.mark.slow
def test_an_onnx_file_takes_t_and_is_not_loaded_as_noise_to_images(tmp_path):
    pytest.importorskip("onnxscript", reason="flowlit[export] is not installed")
    for solver, more in ((OneStep(0.5), ["t"]), (Euler(2), [])):
        file = tmp_path / f"{len(more)}.onnx"
        done = export(sharper(solver=solver), "onnx", file, num=5)
        assert list(done.report["facts"]["inputs"]) == ["noise", "image", *more]
        assert done.report["parity"]["x1"]["max"] < 1e-4
        with pytest.raises(FlowlitError, match="enlarges images, and is run by onnxruntime alone"):
            flowlit.load(str(file))


def test_weights_of_super_resolution_are_a_file_that_gives_the_same_images(tmp_path):
    network = randomise(ConcatenatedImage(UNet(8, 3, 8, (1, 2), 1, (), 0.0)), 1)
    describe_task(network, AveragePool(2), NoisedImage(0.3))
    generator = Generator(network, OneStep(0.5), Pixels())
    done = export(generator, "safetensors", tmp_path / "a.safetensors", num=2)
    assert done.report["parity"]["x1"]["max"] < 1e-5
