"""``flowlit search``: the schedule of steps that brings one network nearest to its exact flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ... import metrics  # noqa: F401 - short class names resolve
from ...metrics.base import FeatureExtractor
from ...ranges import Float, PositiveInt, Seed
from ...solvers.search import Strategy
from .request import Request


def search(
    model: str,
    *,
    into: Path,
    nfe: PositiveInt,
    strategy: Strategy | None = None,
    budget: PositiveInt = 480,
    population: PositiveInt = 24,
    order: PositiveInt | None = None,
    start: list[str] = [],
    num: PositiveInt = 64,
    fine: PositiveInt = 48,
    features: FeatureExtractor | None = None,
    reference: Path | None = None,
    guidance: Float | None = None,
    seed: Seed = 0,
    batch: PositiveInt = 128,
    weights: str = "ema",
    device: str | None = None,
) -> Iterator[str]:
    """Search times, orders, predictions and correctors of the steps for one network and cost.

    Schedules are compared on the same noise, by their error at the end or a Fréchet distance; the best also
    on other noise, beside known solvers. The same command goes on after it was ended.

    Args:
        model: a run's folder, or a checkpoint
        into: a folder for solver.yaml, layer.yaml, search.json (all that was tried) and search.png
        nfe: evaluations of the network for an image
        strategy: Staged (default), Evolution or DynamicProgramming
        budget: schedules that are tried
        population: of a generation
        order: evaluations that a step may use, at most; 3, or as many as there are, by default
        start: schedules to begin with, as solver.yaml of other searches
        num: images of each schedule, and others of the best
        fine: steps of RK4 to the exact end
        features: of images, for a Fréchet distance in place of the exact end
        reference: statistics of flowlit reference
        guidance: scale of classifier-free guidance; without it by default
        seed: of the noise and of the search
        batch: images at a time
        weights: ema, raw, or the name of another average
        device: as cuda; the CPU by default

    Raises:
        FlowlitError: before any work, for options that contradict each other, and folders of others.
    """
    request = Request(nfe, strategy, budget, population, order, start, num, fine, guidance, seed)
    yield from request.run(model, into, features, reference, weights, device, batch)
