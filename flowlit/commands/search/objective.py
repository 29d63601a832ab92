"""Objectives of a search: the error at the end, on noise that all share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._support.progress import Bar
from ...errors import FlowlitError, NotFinite
from ...generators import Generator
from ...generators.sampling import rows_of_seed
from ...metrics.base import FeatureExtractor, FeatureMetric
from ...solvers import RK4
from ...solvers.search.candidate import Candidate
from ...solvers.search.paths import Paths, follow
from ...types import Noise, Observer


class Objective(ABC):
    """Score of a candidate on the first images of a seed; smaller is better.

    Args:
        generator: of the images.
        num: images.
        seed: of their noise.
        batch: images at a time, on which no score depends.
    """

    name: str
    sign: int = 1
    """-1 where a score is a number of which more is better, times -1."""

    def __init__(self, generator: Generator, num: int, seed: int, batch: int):
        self.generator = generator
        self.rows = rows_of_seed(generator, num, seed, None)
        self.batch = min(batch, num)

    @abstractmethod
    def identity(self) -> Any:
        """Return what decides about a score beside the noise, as plain data."""

    @abstractmethod
    def score(self, generator: Generator) -> float:
        """Return the score of a generator."""

    @torch.no_grad()
    def __call__(self, candidate: Candidate) -> float | None:
        """Return the score of a candidate; None where its images are not finite."""
        try:
            score = self.score(replace(self.generator, solver=candidate.schedule()))
        except NotFinite:
            return None
        return score if score < float("inf") else None

    def batches(self) -> Iterator[Noise]:
        """Yield the noise and its classes."""
        device = self.generator.device
        for first in range(0, self.rows.num, self.batch):
            noise = self.rows.batch(range(first, min(first + self.batch, self.rows.num)))
            cond = {name: value.to(device) for name, value in noise.cond.items()}
            yield Noise(noise.index, noise.x0.to(device), cond)


class EndpointError(Objective):
    """Root mean square of x1 - x1*, over pixels and images, in units of [-1, 1]; x1* by RK4 in fine steps."""

    name = "error to the exact end"

    def __init__(self, generator: Generator, num: int, seed: int, batch: int, fine: int):
        super().__init__(generator, num, seed, batch)
        self.exact = RK4(fine)

    def identity(self) -> Any:
        return {"endpoint_error": {"exact": repr(self.exact)}}

    @cached_property
    def _paths(self) -> tuple[Paths, list[Tensor]]:
        """Exact ways, and their ends (B, …)."""
        paths = Paths(self.exact.times())
        ends = []
        with self._bar() as bar:
            for noise in self.batches():
                x, v = follow(partial(self._exact, noise, bar))
                paths.add(x, v)
                ends.append(x[-1])
        return paths, ends

    @cached_property
    def _ends(self) -> list[Tensor]:
        """Exact ends (B, …) of each batch; without their ways, which need memory."""
        if "_paths" in vars(self):
            return self._paths[1]
        with self._bar() as bar:
            return [self._exact(noise, bar, lambda t, x, v: None) for noise in self.batches()]

    def _bar(self) -> Bar:
        steps = self.exact.steps * math.ceil(self.rows.num / self.batch)
        return Bar(total=steps, desc="Exact ends", unit=" steps", leave=False)

    @torch.no_grad()
    def _exact(self, noise: Noise, bar: Bar, observe: Observer) -> Tensor:
        def counted(t: Tensor, x: Tensor, v: Tensor) -> None:
            observe(t, x, v)
            bar.update()

        generator = replace(self.generator, solver=self.exact)
        return generator.solve(noise.x0, noise.cond, observe=counted).x1

    def paths(self) -> Paths:
        """Return the exact ways."""
        return self._paths[0]

    def score(self, generator: Generator) -> float:
        squares = [
            (generator.solve(noise.x0, noise.cond).x1 - end).double().flatten(1).square().mean(1)
            for noise, end in zip(self.batches(), self._ends, strict=True)
        ]
        return float(torch.cat(squares).cpu().mean().sqrt())


@dataclass
class Measured:
    """Options of ``flowlit search`` on what images are scored by; the error at the end without features."""

    features: FeatureExtractor | None = None
    reference: Path | None = None
    metric: FeatureMetric | None = None
    by: str | None = None

    def check(self) -> None:
        """Refuse options of which another is missing.

        Raises:
            FlowlitError: naming it.
        """
        if (self.features is None) != (self.reference is None):
            given, other = ("features", "reference") if self.reference is None else ("reference", "features")
            raise FlowlitError(f"--{given} without --{other}: a Fréchet distance needs both; add it")
        if self.metric is not None and self.features is None:
            raise FlowlitError("--metric without --features: it is a number of features of images; add both")
        if self.by is not None and self.metric is None:
            raise FlowlitError(f"--by {self.by} without --metric, whose numbers it names; add it")

    def objective(self, generator: Generator, num: int, seed: int, batch: int) -> Objective | None:
        """Return the objective; None is the error at the end.

        Raises:
            FlowlitError: if the images, the features and the metric do not fit.
        """
        if self.features is None or self.reference is None:
            return None
        from . import features  # Lightning's callbacks, which take seconds

        facts = generator, num, seed, batch, self.features, self.reference
        if self.metric is None:
            return features.FrechetDistance(*facts)
        return features.MetricScore(*facts, self.metric, self.by)
