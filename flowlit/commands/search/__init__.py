"""``flowlit search``: the schedule of steps that brings one network nearest to its exact flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...metrics import efficientnet, extrapolated, fidelity, inception  # noqa: F401 - short names resolve
from ...metrics.base import FeatureExtractor, FeatureMetric
from ...ranges import Float, PositiveInt, Seed
from ...solvers.search import Strategy
from .objective import Measured
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
    metric: FeatureMetric | None = None,
    by: str | None = None,
    calls: PositiveInt | None = None,
    guidance: Float | None = None,
    seed: Seed = 0,
    batch: PositiveInt = 128,
    weights: str = "ema",
    device: str | None = None,
) -> Iterator[str]:
    """Search times and rules of the steps for one network and cost, and score the best on other noise.

    Args:
        model: a run's folder, or a checkpoint
        into: a folder for solver.yaml, layer.yaml, search.json and search.png, where an ended search goes on
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
        metric: KID, PrecisionRecall or another in place of that distance
        by: which of the metric's numbers, where it has several, as recall
        calls: of the network, more than nfe: blocks are left out, so that all cost no more than it does
        guidance: scale of classifier-free guidance; without it by default
        seed: of the noise and of the search
        batch: images at a time
        weights: ema, raw, or the name of another average
        device: as cuda; the CPU by default
    """
    request = Request(nfe, strategy, budget, population, order, start, num, fine, guidance, seed, calls)
    yield from request.run(model, into, Measured(features, reference, metric, by), weights, device, batch)
