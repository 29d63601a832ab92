"""Checks of what the Fréchet distance's callback measures."""

from __future__ import annotations

import re

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..._support.batch_invariance import in_blocks
from ...data.classes import check_same_names, class_names_of
from ...data.provenance import trained_on
from ...errors import FlowlitError
from ...metrics import FirstAvailable, Inception
from ...metrics.base import FeatureBatch, FeatureExtractor, Reference
from ...metrics.frechet import few_images
from ...metrics.protocol import check_dimension, check_reference, other_images
from ...networks.checkpoints.fingerprint import features_of, hash_weights
from ...solvers.base import non_finite
from ...types import Codec
from .feature_metrics import RealImages

REFERENCE = "make one of images of the classes that it was trained on: flowlit reference"


def check_origin(reference: Reference, network: nn.Module) -> None:
    """Refuse a reference of other classes than the network's, and warn of other images.

    Raises:
        FlowlitError: naming the classes that differ.
    """
    classes = reference.protocol.get("classes")
    ours = class_names_of(network)
    check_same_names(classes, ours, f"reference {reference.path}", "the network", REFERENCE)
    other = other_images(reference, trained_on(network))
    if other:
        rank_zero_warn(other)


def warn_of_few_images(num: int, real: int | None, dim: int) -> None:
    """Warn of too few generated images, or real ones where their number is known, for ``dim`` features."""
    few = few_images(dim, generated=num, real=real)
    if few:
        rank_zero_warn(few)


@torch.no_grad()
def compared(reference: Reference, features: FeatureExtractor, blank: Tensor) -> RealImages:
    """Compare a reference with the features of blank images (B, C, H, W), shaped as this run's.

    Raises:
        FlowlitError: if it contradicts them.
    """
    extracted = features.extract(blank)
    dim = extracted.features.shape[1]
    not_compared = check_reference(reference, features, blank.shape[1:])
    check_dimension(reference, dim)
    if not_compared:
        rank_zero_warn(f"reference {reference.path} lacks its {', '.join(not_compared)}; not compared")
    classes = 0 if extracted.logits is None else extracted.logits.shape[1]
    return RealImages(reference, dim, classes, not_compared)


def warn_of_own_features(
    features: FeatureExtractor, objective: nn.Module | None, network: nn.Module | None = None
) -> None:
    """Warn of features that an objective compares, now or when the network was trained.

    Their distance falls faster than others do.
    """
    parts = (trained_on(network) or {}).get("features", {}) | features_of(objective)
    measuring = features.network() if parts else None
    part = parts.get(hash_weights(measuring)) if measuring is not None else None
    if part is not None:
        rank_zero_warn(
            f"{part} trains on the network whose {features.name} features measure the "
            "result, so that their distance says little; measure in another network's as well, by a "
            "second flowlit.callbacks.FID"
        )


def check_images(x1: Tensor, solver: str) -> None:
    """Refuse images (B, C, H, W) that are not finite.

    Raises:
        FlowlitError: stating how many.
    """
    bad = non_finite(x1)
    if bad:
        raise FlowlitError(
            f"{solver}: {bad} of {len(x1)} generated images are not finite; training has diverged"
        )


def extract(features: FeatureExtractor, codec: Codec, x1: Tensor, solver: str) -> FeatureBatch:
    """Return the features of x1 (B, C, H, W) as images.

    Raises:
        FlowlitError: stating how many features are not finite.
    """
    extracted = FeatureBatch(*in_blocks(features.extract, codec.decode(x1)))
    bad = non_finite(extracted.features)
    if bad:
        raise FlowlitError(
            f"{solver}: {bad} of {len(x1)} images have {features.name} features that are not finite"
        )
    return extracted


def check_name(features: FeatureExtractor) -> None:
    """Refuse a name that would be taken for another's, or that could not stand in tags.

    Raises:
        FlowlitError: stating the rule that the name breaks.
    """
    taken = features.name.startswith("extrapolated_") or features.name.endswith("_half")
    if taken or not re.fullmatch(r"\w+", features.name):
        raise FlowlitError(
            f"features are called {features.name!r}, which becomes part of tags; use letters, digits and _, "
            "no extrapolated_ in front and no _half at the end"
        )
    extractor = features.chosen if isinstance(features, FirstAvailable) else features
    if features.name.split("_")[0] == "inception" and not isinstance(extractor, Inception):
        raise FlowlitError(
            f"{type(extractor).__name__} is called {features.name!r}, but only Inception's are; choose "
            "another name"
        )
