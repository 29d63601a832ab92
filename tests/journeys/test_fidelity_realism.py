"""A teacher and its one-step student, trained briefly: the knob's curve on digits that were held out."""

import copy
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from flowlit import rng
from flowlit.couplings import DegradedImages, NoisedImage, SuperResolution
from flowlit.data import AveragePool, Digits, Pixels
from flowlit.metrics import PSNR
from flowlit.metrics.frechet import frechet_distance
from flowlit.networks import ConcatenatedImage, UNet
from flowlit.objectives import RectifiedFlow, TrajectoryDistillation
from flowlit.solvers import Euler, OneStep

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(900)]

LAW = {"degradation": AveragePool(4), "start": NoisedImage(0.3)}
TIMES = (0.0, 0.25, 0.5, 1.0)


class Quality(NamedTuple):
    """Nearness of results to the originals, and of their law to that of images."""

    psnr: float  # in dB
    distance: float  # of Fréchet, of the pixels


def moments(images):
    flat = images.flatten(1).double() / 127.5 - 1
    return flat.mean(0), torch.cov(flat.T)


def quality(network, solver):
    """Of all digits that were held out."""
    images = Digits("test", labels=False)
    source = DegradedImages(images, **LAW, num=len(images), seed=1)
    noise, originals = source.batch(range(len(images))), source.targets(range(len(images)))
    with torch.no_grad():
        results = Pixels().decode(solver(network, noise.x0, noise.cond).x1)
    distance = frechet_distance(*moments(results), *moments(originals))
    return Quality(float(PSNR()(results, originals).mean()), distance)


def trained(network, objective, steps, rate):
    digits = Digits("train", labels=False)
    images = torch.stack([digits[row]["x1"] for row in range(len(digits))])
    coupling = SuperResolution(digits, **LAW)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        pair = coupling.complete({"x1": images[rows], "cond": {}}, torch.device("cpu"))
        optimizer.zero_grad()
        objective(network, pair)["loss"].backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def test_psnr_falls_and_realism_rises_with_t_on_images_held_out():
    torch.manual_seed(0)
    rng.seed(torch.device("cpu"), 0)
    fresh = ConcatenatedImage(UNet(8, 1, 16, (1, 2), 1, (), 0.0))
    teacher = trained(fresh, RectifiedFlow(), 300, 3e-3)
    student = trained(copy.deepcopy(teacher).train(), TrajectoryDistillation(teacher, dt=0.1), 80, 1e-3)
    curve = [quality(student, OneStep(t)) for t in TIMES]
    for faithful, realistic in pairwise(curve):
        assert faithful.psnr > realistic.psnr + 0.1, curve
        assert faithful.distance > 1.1 * realistic.distance, curve
    mean = quality(teacher, Euler(1))
    assert curve[0].psnr == pytest.approx(mean.psnr, abs=0.3), "the teacher's mean of all answers"
    assert curve[-1].psnr > mean.psnr - 3.01, "no farther away than samples of the posterior"
