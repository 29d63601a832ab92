"""Images of an export and of its checkpoint in the features of an extractor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._support.progress import Bar
from ...metrics.base import FeatureExtractor, Reference
from ...metrics.frechet import Moments, few_images, frechet_distance

if TYPE_CHECKING:
    from .parity import Sample

BATCH = 64
"""Images at a time."""


def features_of(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """Return the features (N, d) of images (N, C, H, W), uint8."""
    parts = images.split(BATCH)
    few = {"disable": True} if len(parts) < 5 else {}
    with torch.no_grad():
        bar = Bar(parts, desc=f"{extractor.name} features", unit=" batches", leave=False, **few)
        return torch.cat([extractor(part).float().cpu() for part in bar])


def feature_distance(
    extractor: FeatureExtractor, sample: Sample, reference: Reference | None = None
) -> dict[str, Any]:
    """Return the Fréchet distance of both sets in some features, and how far an image's features moved.

    Args:
        extractor: of the features.
        sample: of both.
        reference: real images, from which both sets have a distance, too.
    """
    before = features_of(extractor, sample.before.images)
    after = features_of(extractor, sample.after.images)
    moments = []
    for features in (before, after):
        one = Moments(features.shape[1])
        one.update(features)
        moments.append(one.compute())
    moved = (before - after).norm(dim=1).mean() / before.norm(dim=1).mean()
    real = {} if reference is None else {"reference": _from_reference(reference, moments, len(before))}
    return {
        "name": extractor.name,
        "sha256": extractor.fingerprint(),
        "frechet": max(0.0, frechet_distance(*moments[0], *moments[1])),  # rounding may bring it below 0
        "moved": float(moved),
        **real,
    }


def _from_reference(reference: Reference, moments: list[Any], num: int) -> dict[str, Any]:
    before, after = (frechet_distance(mean, cov, reference.mean, reference.cov) for mean, cov in moments)
    few = few_images(len(reference.mean), generated=num)
    return {
        "file": reference.path.name,
        "sha256": reference.sha256(),
        "before": before,
        "after": after,
        "warning": few or None,
    }
