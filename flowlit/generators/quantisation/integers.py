"""Rounding to integers, as ONNX's QuantizeLinear and DequantizeLinear have it.

Weights are symmetric with a scale for each output; activations have one scale and a zero point, so that 0
itself is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT = 32
"""Bits of a weight that is left as it is."""

SMALLEST = 2.0**-100
"""Scale, at least: a channel of zeros keeps to itself."""

LEVELS = 255
"""Steps of activations, which have 8 bits."""


class Range(NamedTuple):
    """Values that a tensor takes."""

    low: float
    high: float

    def has_values(self) -> bool:
        """Return whether there is any; what has none is not rounded."""
        return self.low <= self.high

    def joined(self, x: Tensor) -> Range:
        """Return the range of these values and those of x (any shape)."""
        return Range(min(self.low, float(x.min())), max(self.high, float(x.max())))

    def scale_and_zero(self) -> tuple[float, int]:
        """Return the width of a step, and the step from 0 to 255 that is 0."""
        low = min(self.low, 0.0)
        high = max(self.high, 0.0)
        scale = float(torch.tensor(max((high - low) / LEVELS, SMALLEST), dtype=torch.float32))
        return scale, round(min(max(-low / scale, 0), LEVELS))


NOTHING = Range(float("inf"), float("-inf"))
"""Range of no values."""


def weight_scales(weight: Tensor, bits: int) -> Tensor:
    """Return the step (o,) of each output of weights (o, …): its largest takes the largest integer."""
    largest = weight.detach().float().abs().flatten(1).amax(1)
    return (largest / (2 ** (bits - 1) - 1)).clamp_min(SMALLEST)


def weight_integers(weight: Tensor, bits: int) -> Tensor:
    """Return weights (o, …) as whole numbers of steps, int8; -2^(bits - 1) is not used."""
    most = 2 ** (bits - 1) - 1
    steps = weight.detach().float() / along(weight_scales(weight, bits), weight)
    return steps.round().clamp(-most, most).to(torch.int8)


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Return weights (o, …) as they come back from integers of so many bits; 32 leaves them."""
    if bits == FLOAT:
        return weight.detach()
    scales = along(weight_scales(weight, bits), weight)
    return (weight_integers(weight, bits).float() * scales).to(weight.dtype)


def rounded(x: Tensor, values: Range) -> Tensor:
    """Return activations x (any shape) as they come back from 8 bits over a range."""
    scale, zero = values.scale_and_zero()
    steps = (x.float() / scale).round() + zero
    return ((steps.clamp(0, LEVELS) - zero) * scale).to(x.dtype)


def along(scales: Tensor, weight: Tensor) -> Tensor:
    """Return scales (o,) so that they multiply weights (o, …)."""
    return scales.reshape(-1, *[1] * (weight.ndim - 1))
