"""Metrics of the features of all images that a run of ``validate`` or ``test`` generated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..._support.progress import Bar
from ...errors import FlowlitError
from ...metrics.base import FeatureBatch, FeatureExtractor, FeatureMetric, NumberedFeatures, Reference
from ...metrics.features import features_identity
from ...metrics.fidelity import tag
from ...metrics.frechet import frechet_estimates
from ...metrics.report import Estimate
from ...networks.checkpoints.fingerprint import identity
from .base import noise_of
from .generated_features import GeneratedFeatures


class RealImages(NamedTuple):
    """Real images that generated ones are compared with, as one extractor sees them."""

    reference: Reference
    dim: int
    """Entries of a feature vector."""
    classes: int
    """Entries of the logits; 0 if the extractor does not classify."""
    not_compared: list[str]
    """Facts that the reference does not state."""


@dataclass
class FeatureMetrics:
    """The Fréchet distance of all images, that of the first half, and further metrics, solver by solver.

    Args:
        features: the extractor.
        metrics: computed beside the Fréchet distance.
        real: what generated images are compared with.
        generated: features of generated images, all of them written.
    """

    features: FeatureExtractor
    metrics: Sequence[FeatureMetric]
    real: RealImages
    generated: GeneratedFeatures

    def measure(self, trainer: pl.Trainer, module: Any) -> dict[str, Any]:
        """Compute and log every number; return the part of the report. On rank 0 alone.

        Raises:
            FlowlitError: if features are missing.
        """
        num = len(noise_of(trainer))
        images = 0
        values: dict[str, float] = {}
        spread: dict[str, float] = {}
        with_real = any(metric.needs_real for metric in self.metrics)
        real = self.real.reference.features() if with_real else None
        with Bar(total=len(module.solvers) * (1 + len(self.metrics)), desc="Measures", leave=False) as bar:
            for solver in module.solvers:
                for name, estimate in self._estimates(solver, real, num, bar):
                    label = f"{tag(self.features.name, name)}/{solver}"
                    values[label] = float(estimate.value)
                    spread |= {} if estimate.spread is None else {label: float(estimate.spread)}
                index, nfe = self.generated.cache.read(f"{solver}.nfe", num)
                values[f"nfe/{solver}"] = float(nfe.double().mean())
                images = len(index)
        for label, value in values.items():
            module.log(label, value, rank_zero_only=True)
        self._check_number(trainer, images, num)
        features = {self.features.name: self._facts(images, num)}
        # float64 under "metrics", where Lightning keeps float32
        return {"images": images, "metrics": values, "spread": spread, "features": features}

    def _estimates(
        self, solver: str, real: Tensor | None, num: int, bar: Bar
    ) -> Iterator[tuple[str, Estimate]]:
        reference = self.real.reference
        cache = self.generated.cache
        with cache.gathered(f"{solver}.features", num) as features:
            yield from frechet_estimates(features, reference.mean, reference.cov).items()
            bar.update()
            with_logits = any(metric.needs_logits for metric in self.metrics)
            logits = cache.read(f"{solver}.logits", num)[1] if with_logits else None
            index = cache.read(f"{solver}.nfe", num)[0]
            generated = NumberedFeatures.of(features, logits, index)
            for metric in self.metrics:
                metric.check(len(features), reference.kept or None)  # again: a limit may leave fewer images
                yield from estimates(metric, generated, real).items()
                bar.update()

    def _check_number(self, trainer: pl.Trainer, images: int, num: int) -> None:
        if images < num and not limited(trainer):
            raise FlowlitError(
                f"features of {images} of {num} images are there; did another process remove some from "
                f"{self.generated.cache.folder}?"
            )
        if images < num:
            rank_zero_warn(f"{images} of {num} images were measured; limit_*_batches kept the others back")

    def _facts(self, images: int, num: int) -> dict[str, Any]:
        devices, seconds = self.generated.cache.made()
        return {
            **features_identity(self.features, self.real.dim),
            "images": images,
            "kept": self.generated.reused(num),
            "made_on": devices,
            "device_seconds": round(seconds, 1),
            "reference": {**self.real.reference.identity(), "not_compared": self.real.not_compared},
            "measures": [identity(metric) for metric in self.metrics],
        }


def check_metric(metric: FeatureMetric, features: FeatureExtractor, real: RealImages, num: int) -> None:
    """Refuse, before any work, a metric that needs more than the extractor, the reference or the images have.

    Raises:
        FlowlitError: stating what the metric needs.
    """
    name = type(metric).__name__
    if metric.needs_logits and not real.classes:
        raise FlowlitError(f"{name} needs classes, which {features.name} features do not give; leave it out")
    if metric.needs_real and not real.reference.kept:
        raise FlowlitError(
            f"{name} needs the features of real images, and {real.reference.path} holds their mean and "
            "covariance only; make it again with --keep_features true, or name the images as reference"
        )
    metric.check(num, real.reference.kept or None)


def estimates(metric: FeatureMetric, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
    """Compute a metric of generated images, given the features (N, d) of real ones.

    Raises:
        FlowlitError: if it returns something else than estimates.
    """
    values = metric(generated, real)
    if not all(isinstance(estimate, Estimate) for estimate in values.values()):
        raise FlowlitError(
            f"{type(metric).__name__} returned {values}; expected {{name: Estimate(value, spread)}}"
        )
    return values


def limited(trainer: pl.Trainer) -> bool:
    """Return whether the run takes fewer batches than there are."""
    test = trainer.state.fn == "test"
    limit = trainer.limit_test_batches if test else trainer.limit_val_batches
    return bool(trainer.fast_dev_run) or limit != 1.0  # type: ignore[attr-defined]
