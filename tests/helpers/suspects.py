"""What several tests share with ``couplings/store/test_verify.py``."""

from __future__ import annotations

from pathlib import Path

import stores
import torch
from reference.pair_folders import smooth

from flowlit.couplings import SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.verify import verify
from flowlit.types import Solution, Solver

SHAPE = (1, 8, 8)


class Smooth(Solver):
    """Pairs that look like those of a trained teacher: correlated, and with the right law at both ends, more
    or less.
    """

    def __init__(self, scale=1.0):
        self.scale, self.generator = scale, torch.Generator().manual_seed(0)

    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        if reverse:
            fresh = torch.randn(x0.shape, generator=self.generator)
            end = 0.5 * (x0 - x0.mean()) / x0.std() + 0.75**0.5 * fresh
        else:
            end = self.scale * torch.from_numpy(smooth(x0.numpy()))
        return Solution(end, torch.full((len(x0),), 7))


def noise_origin(num, seed=0, classes=0, labels=None, shape=SHAPE):
    return FromNoise(SeededNoise(shape, num, seed, classes, labels))


def fill(folder, num=120, origin=None, scale=1.0, **settings):
    """Write a store as ``flowlit couple`` does."""
    settings = {"x0": "float16", "x1": "float16", "shard_size": 50, "solver": Smooth(scale), **settings}
    return Path(stores.fill(folder, origin=origin or noise_origin(num), num=num, **settings))


def edit(folder, **changes):
    """Change facts of the manifest."""
    stores.edit_manifest(folder, lambda manifest: manifest.update(changes))
    return folder


def wrong(folder):
    """The checks that fail, and what they found."""
    return {check.name: check.found for check in verify(folder, quiet=True) if not check.good}
