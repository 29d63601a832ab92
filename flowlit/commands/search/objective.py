"""Objectives of a search: the error at the end, or a Fréchet distance, on noise that all share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._support.progress import Bar
from ...errors import NotFinite
from ...generators import Generator
from ...generators.sampling import noise_shape, rows_of_seed
from ...metrics.base import FeatureExtractor
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


class FrechetDistance(Objective):
    """Fréchet distance between images and a reference, in the features of an extractor."""

    def __init__(
        self,
        generator: Generator,
        num: int,
        seed: int,
        batch: int,
        features: FeatureExtractor,
        reference: Path,
    ):
        from ...callbacks.evaluation.fid_checks import check_origin, compared, warn_of_few_images
        from ...metrics.reference import read_reference

        super().__init__(generator, num, seed, batch)
        self.features = features
        self.reference = read_reference(reference)
        check_origin(self.reference, generator.network)
        blank = torch.zeros(16, *noise_shape(generator), device=generator.device)
        compared(self.reference, features, generator.codec.decode(blank))
        warn_of_few_images(num, self.reference.protocol.get("count"), len(self.reference.mean))
        self.name = f"Fréchet distance ({features.name}) of {num:,} images"

    def identity(self) -> Any:
        facts = {"features": self.features.fingerprint(), "reference": self.reference.sha256()}
        return {"frechet_distance": facts}

    def score(self, generator: Generator) -> float:
        from ...callbacks.evaluation.fid_checks import extract
        from ...metrics.frechet import Moments, frechet_distance

        moments = Moments(len(self.reference.mean), alone=True)
        for noise in self.batches():
            x1 = generator.solve(noise.x0, noise.cond).x1
            moments.update(extract(self.features, generator.codec, x1, "search").features.cpu())
        return frechet_distance(*moments.compute(), self.reference.mean, self.reference.cov)
