"""Kernels of blur: Gaussian ones and their relatives, and the ringing of a sharp cut in frequency."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import j1

Profile = Literal["gaussian", "generalised", "plateau"]
"""exp(-q / 2), exp(-q^β / 2) or 1 / (1 + q^β) of q = uᵀ Σ⁻¹ u at a place u."""


def _places(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of each entry of a kernel, from its middle, (size, size)."""
    line = np.arange(size) - (size - 1) / 2
    return line[None, :].repeat(size, 0), line[:, None].repeat(size, 1)


def bell(
    size: int,
    sigmas: tuple[float, float],
    angle: float = 0.0,
    profile: Profile = "gaussian",
    beta: float = 1.0,
) -> np.ndarray:
    """Return a kernel (size, size) of sum 1 with one peak.

    Args:
        size: odd.
        sigmas: widths along its two axes, in pixels.
        angle: of the first axis to the rows, in radians.
        profile: its shape.
        beta: exponent of the latter two; 1 makes "generalised" a Gaussian.
    """
    x, y = _places(size)
    along = (x * math.cos(angle) + y * math.sin(angle)) / sigmas[0]
    across = (y * math.cos(angle) - x * math.sin(angle)) / sigmas[1]
    q = along**2 + across**2
    if profile == "plateau":
        kernel = 1 / (1 + q**beta)
    else:
        kernel = np.exp(-(q ** (beta if profile == "generalised" else 1.0)) / 2)
    return kernel / kernel.sum()


def sinc(size: int, cutoff: float) -> np.ndarray:
    """Return the low-pass kernel (size, size) of sum 1 that cuts all frequencies beyond a circle.

    ω J1(ω r) / (2 π r) at a distance r, ω² / 4π in the middle.

    Args:
        size: odd.
        cutoff: ω, radius of the circle in radians a pixel, up to π.
    """
    r = np.hypot(*_places(size))
    middle = r == 0
    kernel = cutoff * j1(cutoff * r) / (2 * math.pi * np.where(middle, 1.0, r))
    kernel[middle] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def pulse(size: int) -> np.ndarray:
    """Return the kernel (size, size) that changes nothing."""
    kernel = np.zeros((size, size))
    kernel[size // 2, size // 2] = 1
    return kernel
