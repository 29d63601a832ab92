"""A source that is not plain noise, as someone who extends flowlit would write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from flowlit.couplings.noise import seeded_normals
from flowlit.data import Pixels
from flowlit.types import ImageDataset, Noise, Source


class LowResolution(Source):
    """Noise around an image of half the resolution, which is the condition ``lr``: super-resolution."""

    def __init__(
        self, images: ImageDataset, num: int, sigma: float = 0.5, seed: int = 0, labels: bool = False
    ):
        self.images = images
        self.num = num
        self.sigma = sigma
        self.seed = seed
        self.labels = labels
        self.num_classes = 10 if labels else 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images[0]["x1"].shape)

    def __len__(self) -> int:
        return self.num

    def first(self, num: int) -> LowResolution:
        return LowResolution(self.images, num, self.sigma, self.seed, self.labels)

    def reseeded(self, seed: int) -> LowResolution:
        return LowResolution(self.images, self.num, self.sigma, seed, self.labels)

    def identity(self) -> dict[str, Any]:
        facts = {"source": "sources.LowResolution", "images": self.images.fingerprint, "sigma": self.sigma}
        return {**facts, "seed": self.seed, "shape": list(self.shape)}

    def batch(self, indices: Sequence[int]) -> Noise:
        items = [self.images[i % len(self.images)] for i in indices]
        lr = avg_pool2d(Pixels().encode(torch.stack([item["x1"] for item in items])), 2)
        x0 = interpolate(lr, scale_factor=2) + self.sigma * seeded_normals([self.seed], indices, self.shape)
        label = {"label": torch.stack([item["cond"]["label"] for item in items])} if self.labels else {}
        return Noise(torch.tensor(indices), x0, {"lr": lr, **label})


class Sharpen(nn.Module):
    """A velocity of the state and the low-resolution image."""

    reads = frozenset({"lr", "label"})

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Any = {}) -> Tensor:
        assert cond["lr"].shape == (len(x), 1, x.shape[2] // 2, x.shape[3] // 2)
        return self.layer(torch.cat([x, interpolate(cond["lr"], scale_factor=2)], 1))
