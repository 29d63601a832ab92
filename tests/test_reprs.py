"""Every object of the vocabulary prints as one line, which names its arguments and shows no tensors."""

import importlib
import inspect

import pytest
import torch
from tools import tiny_unet
from torch import nn

import flowlit
from flowlit.callbacks import EMA, FID, LastCheckpoint, Report, Samples
from flowlit.couplings import Cached, Independent, SeededNoise
from flowlit.data import Digits, ImageFolder, Patches, Pixels
from flowlit.frozen import Frozen
from flowlit.generators import Generator
from flowlit.metrics import ClassifierFeatures
from flowlit.modules import FlowDataModule
from flowlit.objectives import AnnealedReflow, Distillation
from flowlit.objectives.distances import PseudoHuber
from flowlit.objectives.times import Uniform
from flowlit.paths import VE
from flowlit.schedules import Linear
from flowlit.solvers import RK4, RK45, Euler
from flowlit.types import Noise, Pair, Solution

IMAGES = torch.zeros(2, 1, 8, 8)


def public_classes():
    for package in flowlit.PACKAGES:
        module = importlib.import_module(f"flowlit.{package}")
        for name in module.__all__:
            kind = getattr(module, name)
            if inspect.isclass(kind):
                yield pytest.param(kind, id=f"{package}.{name}")


@pytest.mark.parametrize("kind", public_classes())
def test_every_public_class_has_a_text_of_its_own(kind):
    assert kind.__repr__ is not object.__repr__


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (Pixels(), "Pixels()"),
        (Patches(), "Patches()"),
        (Euler(2), "Euler(steps=2, rho=1.0, grid=None)"),
        (SeededNoise((1, 8, 8), 16), "SeededNoise(shape=(1, 8, 8), num=16)"),
        (SeededNoise((1, 8, 8), 16, 3, 10), "SeededNoise(shape=(1, 8, 8), num=16, seed=3, num_classes=10)"),
        (Digits(), "Digits()"),
        (Digits("test", labels=False), "Digits(part='test', labels=False)"),
        (Independent(Digits("train")), "Independent(images=Digits(part='train'), codec=Pixels())"),
        (Report(), "Report()"),
        (Pair(IMAGES, IMAGES), "Pair(x0=Tensor (2, 1, 8, 8), x1=Tensor (2, 1, 8, 8), cond={})"),
        (Solution(IMAGES, torch.ones(2)), "Solution(x1=Tensor (2, 1, 8, 8), nfe=Tensor (2,))"),
        (
            Noise(torch.arange(2), IMAGES, {"label": torch.arange(2)}),
            "Noise(index=Tensor (2,), x0=Tensor (2, 1, 8, 8), cond={'label': Tensor (2,)})",
        ),
        (
            Generator(tiny_unet(num_classes=3), RK4(2), Pixels()),
            "Generator(UNet of 48,081 weights, 1×8×8, 3 classes, RK4(steps=2, rho=1.0, grid=None), Pixels(), "
            "cpu)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_is_the_call_that_makes_it(thing, text):
    assert repr(thing) == text


@pytest.mark.parametrize(
    "thing",
    [
        ImageFolder("no/such/folder"),
        Cached("no/such/store"),
        AnnealedReflow(),
        Distillation(),
        PseudoHuber(),
        Uniform(),
        VE(),
        Linear(10),
        RK45(),
        EMA(),
        LastCheckpoint(),
        Samples(),
        Frozen(tiny_unet()),
        ClassifierFeatures("no.ckpt", "digits"),
        FID(ClassifierFeatures("no.ckpt", "digits"), Digits()),
        FlowDataModule(Independent(Digits()), batch_size=8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_is_one_short_line_and_reads_no_disk(thing):
    text = repr(thing)
    print(text)
    assert text.startswith(f"{type(thing).__name__}(") and text.isprintable()
    assert len(text) < 250 and "tensor(" not in text and " at 0x" not in text


def test_networks_keep_the_text_of_torch():
    assert repr(tiny_unet()) == nn.Module.__repr__(tiny_unet())
