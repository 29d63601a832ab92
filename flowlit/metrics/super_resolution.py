"""Measures of enlarged images: what they look like, and whether they still are their input."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..data.codecs import from_levels
from ..data.degradations import AveragePool, Bicubic, Chain, Degradation, EightBit, GaussianNoise
from ..errors import FlowlitError
from ..objectives.distances import EfficientNetLite0Distance
from ..types import Distance
from .paired import PairedMetric, check_paired, consistency


@dataclass
class Perceptual(PairedMetric):
    """A perceptual distance of images from those that they should be; 0 for equal ones.

    Args:
        distance: such as ``flowlit.objectives.distances.LPIPS``, of images in [-1, 1]; None is
            ``EfficientNetLite0Distance(resize=64)``. A student that trains on it should be measured in
            another. The size that it resizes to is part of the name.
    """

    distance: Distance | None = None
    larger_is_better = False

    def __post_init__(self) -> None:
        self._distance = self.distance or EfficientNetLite0Distance()

    @property
    def name(self) -> str:
        return f"{type(self._distance).__name__.lower()}_{self._resize or 'none'}"

    @property
    def title(self) -> str:
        resize = "own size" if self._resize is None else f"at {self._resize}"
        return f"{type(self._distance).__name__}, {resize}, 8 bits"

    @property
    def _resize(self) -> int | None:
        return getattr(self._distance, "resize", None)

    @torch.no_grad()
    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        check_paired(images, targets)
        return self._distance(from_levels(images), from_levels(targets)).double()


@dataclass
class LRConsistency(PairedMetric):
    """PSNR in dB of degraded results against the degraded originals, both without noise.

    It is high for a result that is one of the answers to its input, however it looks; infinite, or hundreds
    of dB, for one that gives exactly the same input.

    Args:
        degradation: that of the input: ``AveragePool``, ``Bicubic``, or a ``Chain`` of these, in which
            ``GaussianNoise`` and ``EightBit`` are left out.
    """

    degradation: Degradation
    _steps: list[Degradation] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        chain = self.degradation.steps if isinstance(self.degradation, Chain) else [self.degradation]
        self._steps = [step for step in chain if not isinstance(step, GaussianNoise | EightBit)]
        if not self._steps or not all(isinstance(step, AveragePool | Bicubic) for step in self._steps):
            raise FlowlitError(
                f"LRConsistency: {self.degradation!r} has random parts besides noise, or no scale; "
                "expected AveragePool, Bicubic, or a Chain of them with GaussianNoise and EightBit"
            )

    @property
    def name(self) -> str:
        kinds = "_".join(type(step).__name__.lower() for step in self._steps)
        return f"lr_consistency_{kinds}_{self.degradation.scale}"

    @property
    def title(self) -> str:
        kinds = ", ".join(type(step).__name__ for step in self._steps)
        return f"consistency with the input, {kinds}, scale {self.degradation.scale}"

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        check_paired(images, targets)
        return consistency(self._degraded(images), self._degraded(targets))

    def _degraded(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) through all steps, float64 (B, C, h, w) in [0, 1]."""
        low = images.double() / 255
        for step in self._steps:
            low = step(low, [])
        return low
