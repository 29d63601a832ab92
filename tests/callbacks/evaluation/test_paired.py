"""Images of validation are compared with those that were degraded, solver by solver."""

import math
from types import SimpleNamespace

import pytest
import torch

from flowlit.callbacks import PairedMetrics
from flowlit.couplings import DegradedImages, NoisedImage, SeededNoise
from flowlit.data import AveragePool, Digits, Pixels
from flowlit.errors import FlowlitError
from flowlit.metrics import PSNR
from flowlit.types import Solution

NUM = 6


@pytest.fixture(scope="module")
def source():
    return DegradedImages(Digits(part="test", labels=False), AveragePool(2), NoisedImage(0.2), NUM + 3)


def validated(callback, source, **errors):
    """Run a validation whose solvers make the originals with given errors, in levels; what was logged."""
    data = SimpleNamespace(noise=source, evaluated=lambda command: source, require=lambda num: None)
    trainer = SimpleNamespace(
        datamodule=data, sanity_checking=False, limit_val_batches=1, state=SimpleNamespace(fn="validate")
    )
    logged = {}
    module = SimpleNamespace(
        codec=Pixels(), solvers=errors, log=lambda tag, value, **_: logged.__setitem__(tag, value)
    )
    callback.setup(trainer, module, "validate")
    callback.on_validation_start(trainer, module)
    order = [4, 0, 8, 1, 2, 3, 7, 5, 6]
    for place, rows in enumerate((order[:4], order[4:])):
        noise = source.batch(rows)
        x1 = Pixels().encode(source.targets(rows))
        ends = {name: (x1 * 0.5 + error * 2 / 255) for name, error in errors.items()}
        solutions = {name: Solution(end, torch.ones(len(rows))) for name, end in ends.items()}
        callback.on_validation_batch_end(
            trainer, module, {"noise": noise, "solutions": solutions}, None, place
        )
    callback.on_validation_epoch_end(trainer, module)
    return logged


def test_each_solver_is_compared_with_the_originals(source):
    callback = PairedMetrics(num=NUM)
    logged = validated(callback, source, near=0, far=40)
    originals = source.targets(range(NUM))
    halved = Pixels().decode(Pixels().encode(originals) * 0.5)
    expected = PSNR()(halved, originals)
    assert logged["psnr_rgb_crop0/near"] == pytest.approx(expected.mean().item(), abs=1e-6)
    assert set(logged) == {"psnr_rgb_crop0/near", "psnr_rgb_crop0/far"}
    spread = callback.protocol()["spread"]["psnr_rgb_crop0/near"]
    assert spread == pytest.approx(expected.std().item() / math.sqrt(NUM))
    assert callback.protocol()["paired"]["metrics"] == {"psnr_rgb_crop0": "PSNR RGB, crop 0, 8 bits"}


def test_the_variance_ratio_is_that_to_the_solver_of_the_mean(source):
    logged = validated(PairedMetrics(num=NUM, mean="t0"), source, t0=0, t1=10)
    originals = source.targets(range(NUM)).double()
    mean = Pixels().decode(Pixels().encode(originals.to(torch.uint8)) * 0.5).double()
    expected = 100 * mean.numel() / (mean - originals).square().sum().item()
    assert logged["variance_ratio/t1"] == pytest.approx(expected, rel=0.1)
    assert "variance_ratio/t0" not in logged


def test_what_cannot_be_compared_is_refused_before_any_work(source):
    with pytest.raises(FlowlitError, match="SeededNoise, whose images have no originals"):
        validated(PairedMetrics(num=NUM), SeededNoise((1, 8, 8), NUM), one=0)
    with pytest.raises(FlowlitError, match="mean is 't0'; expected one of the solvers one, two"):
        validated(PairedMetrics(num=NUM, mean="t0"), source, one=0, two=0)
    with pytest.raises(FlowlitError, match="needs 20 samples"):
        validated(PairedMetrics(num=20), source, one=0)
