"""Checks of the data: pairs to train on, noise, and images to measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....callbacks.evaluation.fid import FID
from ....couplings import Cached, Simulated
from ....couplings.store import encoding
from ....couplings.store.reader import StoredPairs
from ....metrics import Inception
from ....modules import OneStepStudent, ReflowStudent
from ....types import ImageDataset
from ..mirror import FEWEST, MOST, asymmetry, bound
from ..subject import Finding, Subject

BATCHES = 10
"""A set of pairs should have so many batches."""

PASSES = 2000
"""More passes over the same pairs than the longest published run makes."""


def random_pairs(s: Subject) -> Finding | None:
    random = "random" in {m["origin"] for m in s.manifests}
    if random and isinstance(s.model, (ReflowStudent, OneStepStudent)):
        what = "these pairs put noise and images together at random; no flow carries one to the other"
        return Finding("warning", what, "flowlit couple without --origin random")
    return None


def some_images(pairs: Any, most: int = MOST) -> Tensor | None:
    """x1 of rows from all over a data set, (N, C, H, W); None if they would have to be made first."""
    source = getattr(pairs, "pairs", pairs)
    if not isinstance(source, (StoredPairs, ImageDataset)):
        return None
    rows = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)).tolist()
    if isinstance(source, StoredPairs):
        if source.codec is not None:  # no pixels, which flips would mirror
            return None
        return encoding.restored(source.__getitems__(rows).x1)
    return torch.stack([source[row]["x1"] for row in rows]).float()


def mirror(s: Subject) -> Finding | None:
    """Return a finding on flips, which double symmetric data, and are wrong for other data."""
    flip = getattr(s.data.coupling, "flip", None)
    images = some_images(s.pairs) if flip is not None else None
    if images is None or len(images) < FEWEST:
        return None
    difference = asymmetry(images)
    most = bound(images[0].numel())
    numbers = (
        f"(mean image against its mirror image: {difference:.1f} standard errors in {len(images)} images, "
        f"{most:.1f} by chance)"
    )
    if flip and difference > most:
        return Finding(
            "warning",
            f"flip: true, but these images are not symmetric {numbers}",
            "--data.coupling.flip false",
        )
    if not flip and difference <= bound(images[0].numel(), 0.05):
        what = f"these images look as likely in a mirror {numbers}, and flips would double them"
        return Finding(
            "hint",
            what,
            "--data.coupling.flip true, unless they show text, or their teacher was trained without",
        )
    return None


def few_pairs(s: Subject) -> Finding | None:
    if s.rows is None or not isinstance(s.data.coupling, (Cached, Simulated)):
        return None
    passes = (s.steps or 0) * s.data.batch_size / s.rows
    if s.rows < BATCHES * s.data.batch_size or passes > PASSES:
        what = (
            f"{s.rows:,} pairs are {s.rows / s.data.batch_size:.3g} batches, and the run passes over them "
            f"{passes:,.0f} times"
        )
        return Finding("warning", what, "more pairs: flowlit couple … --num")
    return None


def seen_noise(s: Subject) -> Finding | None:
    """Return a warning if validation starts from noise that was trained on: noise i of a seed."""
    seeds = {seed for m in s.manifests for seed in m["seeds"]}
    if isinstance(s.data.coupling, Simulated):
        seeds.add(s.data.coupling.noise.seed)
    if s.options is not None and s.options.origin != "data":
        seeds.add(s.options.seed)
    if s.data.noise is not None and s.data.noise.seed in seeds:
        what = (
            f"data.noise and the pairs have the same seed {s.data.noise.seed}: validation would show what "
            "was trained on"
        )
        return Finding("warning", what, "another seed for one of them")
    return None


def few_images(s: Subject) -> Finding | None:
    """Return a warning if there are at most as many images as features.

    The covariance is then singular, and the Fréchet distance too large.
    """
    for fid in s.callbacks(FID):
        name = fid.features.name
        num = len(s.data.noise) if s.data.noise else 0
        dimension = s.dimensions.get(name, 2048 if isinstance(fid.features, Inception) else 0)
        if 0 < num <= dimension:
            what = (
                f"{num:,} images for {dimension:,} {name} features: the distance is too large, and compares "
                "with nothing"
            )
            return Finding("warning", what, f"--data.noise.num {max(10_000, 5 * dimension)}")
    return None


def misplaced_measures(s: Subject) -> Finding | None:
    if s.trains and any(fid.measures for fid in s.callbacks(FID)):
        return Finding(
            "problem",
            "FID: in a fit there is the Fréchet distance only",
            "leave measures to validate and test",
        )
    return None
