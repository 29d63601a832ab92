"""Objectives of a search in features of images: the Fréchet distance, and every metric of ``FID``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ...callbacks.evaluation.feature_metrics import check_metric, estimates
from ...callbacks.evaluation.fid_checks import check_origin, compared, extract, warn_of_few_images
from ...errors import FlowlitError
from ...generators import Generator
from ...generators.sampling import noise_shape
from ...metrics.base import FeatureBatch, FeatureExtractor, FeatureMetric
from ...metrics.fidelity import tag
from ...metrics.frechet import Moments, frechet_distance
from ...metrics.reference import read_reference
from ...networks.checkpoints.fingerprint import identity
from .objective import Objective


class FeatureObjective(Objective):
    """Features of images, and the reference that they are compared with.

    Args:
        generator, num, seed, batch: as ``Objective``.
        features: the extractor.
        reference: statistics of ``flowlit reference``.
    """

    def __init__(
        self,
        generator: Generator,
        num: int,
        seed: int,
        batch: int,
        features: FeatureExtractor,
        reference: Path,
    ):
        super().__init__(generator, num, seed, batch)
        self.features = features
        self.reference = read_reference(reference)
        check_origin(self.reference, generator.network)
        blank = torch.zeros(16, *noise_shape(generator), device=generator.device)
        self.real = compared(self.reference, features, generator.codec.decode(blank))

    def batch_features(self, generator: Generator) -> list[FeatureBatch]:
        """Return the features of all images, batch by batch, on the CPU."""
        batches = []
        for noise in self.batches():
            x1 = generator.solve(noise.x0, noise.cond).x1
            features, logits = extract(self.features, generator.codec, x1, "search")
            batches.append(FeatureBatch(features.cpu(), None if logits is None else logits.cpu()))
        return batches


class FrechetDistance(FeatureObjective):
    """Fréchet distance between images and a reference, in the features of an extractor."""

    def __init__(self, generator: Generator, num: int, *facts: Any):
        super().__init__(generator, num, *facts)
        warn_of_few_images(num, self.reference.protocol.get("count"), self.real.dim)
        self.name = f"Fréchet distance ({self.features.name}) of {num:,} images"

    def identity(self) -> Any:
        facts = {"features": self.features.fingerprint(), "reference": self.reference.sha256()}
        return {"frechet_distance": facts}

    def score(self, generator: Generator) -> float:
        moments = Moments(self.real.dim, alone=True)
        for batch in self.batch_features(generator):
            moments.update(batch.features)
        return frechet_distance(*moments.compute(), self.reference.mean, self.reference.cov)


class MetricScore(FeatureObjective):
    """A number of a metric of ``flowlit.metrics``, of a class of one's own, too.

    Args:
        generator, num, facts: as ``FeatureObjective``.
        metric: as ``FID`` takes them.
        by: the name of one of its numbers; None is the first.
    """

    def __init__(self, generator: Generator, num: int, *facts: Any):
        *others, self.metric, by = facts
        super().__init__(generator, num, *others)
        check_metric(self.metric, self.features, self.real, num)
        self.by = chosen_number(self.metric, by)
        self.sign = -1 if self.by in self.metric.higher else 1
        self.images = self.reference.features() if self.metric.needs_real else None
        self.name = f"{tag(self.features.name, self.by)} of {num:,} images"

    def identity(self) -> Any:
        facts = {"features": self.features.fingerprint(), "reference": self.reference.sha256()}
        return {"metric": identity(self.metric), "by": self.by, **facts}

    def score(self, generator: Generator) -> float:
        batches = self.batch_features(generator)
        logits = torch.cat([b.logits for b in batches if b.logits is not None]) if self.real.classes else None
        generated = FeatureBatch(torch.cat([batch.features for batch in batches]), logits)
        numbers = estimates(self.metric, generated, self.images)
        if self.by not in numbers:
            raise FlowlitError(f"--by {self.by}: {self.metric} has no such number; expected {names(numbers)}")
        return self.sign * float(numbers[self.by].value)


def chosen_number(metric: FeatureMetric, by: str | None) -> str:
    """Return the name of the number of a metric that is searched by.

    Raises:
        FlowlitError: if it is none of those, or not known.
    """
    if by is None and len(metric.numbers) == 1:
        return metric.numbers[0]
    if by is None or (metric.numbers and by not in metric.numbers):
        given = "no --by" if by is None else f"--by {by}"
        one = names(metric.numbers) if metric.numbers else "the name of one of its numbers"
        raise FlowlitError(f"--metric {type(metric).__name__}: {given}; expected --by {one}")
    return by


def names(numbers: Iterable[str]) -> str:
    """Join names of numbers."""
    return " or ".join(numbers)
