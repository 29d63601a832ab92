"""Checks of the data: pairs to train on, and noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....couplings import Cached, Simulated
from ....couplings.store import encoding
from ....couplings.store.reader import StoredPairs
from ....modules import OneStepStudent, ReflowStudent
from ....types import ImageDataset
from ..mirror import FEWEST, MOST, asymmetry, bound
from ..subject import Finding, Subject

BATCHES = 10
"""A set of pairs should have so many batches."""

PASSES = 2000
"""More passes over the same pairs than the longest published run makes."""


def random_pairs(s: Subject) -> Iterator[Finding]:
    random = "random" in {m["origin"] for m in s.manifests}
    if random and isinstance(s.model, (ReflowStudent, OneStepStudent)):
        what = "these pairs put noise and images together at random; no flow carries one to the other"
        yield Finding("warning", what, "flowlit couple without --origin random")


def some_images(pairs: Any) -> Tensor | None:
    """x1 of rows from all over a data set, (N, C, H, W); None if they would have to be made first."""
    source = getattr(pairs, "pairs", pairs)
    if not isinstance(source, (StoredPairs, ImageDataset)):
        return None
    rows = np.unique(np.linspace(0, len(source) - 1, min(MOST, len(source))).astype(int)).tolist()
    if isinstance(source, ImageDataset):
        return torch.stack([source[row]["x1"] for row in rows]).float()
    # flips would mirror pixels, and nothing else
    return encoding.restored(source.__getitems__(rows).x1) if source.codec is None else None


def mirror(s: Subject) -> Iterator[Finding]:
    """Yield a finding on flips, which double symmetric data, and are wrong for other data."""
    flip = getattr(s.data.coupling, "flip", None)
    images = some_images(s.pairs) if flip is not None and not s.stands_in else None
    if images is None or len(images) < FEWEST:
        return
    difference = asymmetry(images)
    pixels = images[0].numel()
    numbers = (
        f"(mean image against its mirror image: {difference:.1f} standard errors in {len(images)} images, "
        f"{bound(pixels):.1f} by chance)"
    )
    if flip and difference > bound(pixels):
        what = f"flip: true, but these images are not symmetric {numbers}"
        yield Finding("warning", what, "--data.coupling.flip false")
    if not flip and difference <= bound(pixels, 0.05):
        what = f"these images look as likely in a mirror {numbers}, and flips would double them"
        mend = "--data.coupling.flip true, unless they show text, or their teacher was trained without"
        yield Finding("hint", what, mend)


def few_pairs(s: Subject) -> Iterator[Finding]:
    if s.rows is None or not isinstance(s.data.coupling, (Cached, Simulated)):
        return
    batches = s.rows / s.data.batch_size
    passes = (s.steps or 0) / batches
    if batches < BATCHES or passes > PASSES:
        what = f"{s.rows:,} pairs are {batches:.3g} batches, and the run passes over them {passes:,.0f} times"
        yield Finding("warning", what, "more pairs: flowlit couple … --num")


def seen_noise(s: Subject) -> Iterator[Finding]:
    """Yield a warning if validation starts from noise that was trained on: noise i of a seed."""
    seeds = {seed for m in s.manifests for seed in m["seeds"]}
    if isinstance(s.data.coupling, Simulated):
        seeds.add(s.data.coupling.noise.seed)
    if s.options is not None and s.options.origin != "data":
        seeds.add(s.options.seed)
    if s.data.noise is not None and s.data.noise.seed in seeds:
        what = f"data.noise and the pairs have the same seed {s.data.noise.seed}"
        mend = "another seed for one of them"
        yield Finding("warning", f"{what}: validation would show what was trained on", mend)
