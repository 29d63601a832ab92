"""Corrections of an enlarged image by the image that it was made from.

A network may shift colours by a little, most of all one in latents. Each function returns the image with the
colours of the other, and its own detail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

ColourFix = Literal["none", "adain", "wavelet", "chroma"]

LEVELS = 5
"""Of wavelets: colours of areas of 2^5 pixels and more come from the other image."""


def adain(images: Tensor, others: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the mean and the standard deviation of the others, in each channel."""
    std, mean = torch.std_mean(images, (2, 3), keepdim=True, correction=0)
    other_std, other_mean = torch.std_mean(others, (2, 3), keepdim=True, correction=0)
    return (images - mean).div_(std.clamp_min(1e-6)).mul_(other_std).add_(other_mean)


def low_pass(images: Tensor) -> Tensor:
    """Return what is left of images (…, H, W) after ``LEVELS`` of the à trous wavelets, edges repeated."""
    for level in range(LEVELS):
        for dim in (-1, -2):
            images = _blurred(images, 2**level, dim)
    return images


def _blurred(images: Tensor, reach: int, dim: int) -> Tensor:
    """Return (¼, ½, ¼) of pixels that far before, here, and that far behind along a side of (…, H, W)."""
    side = images.shape[dim]
    edge = min(reach, side)
    inner = side - edge
    result = images / 2
    for here, there, border, last in ((edge, 0, 0, 0), (0, edge, inner, side - 1)):
        result.narrow(dim, here, inner).add_(images.narrow(dim, there, inner), alpha=0.25)
        result.narrow(dim, border, edge).add_(images.narrow(dim, last, 1), alpha=0.25)
    return result


def wavelet(images: Tensor, others: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the low frequencies of the others; StableSR (2305.07015).

    That is what they are, and the low frequencies of the difference, a channel at a time.
    """
    result = torch.empty_like(images)
    for place, channel in enumerate(images.unbind(1)):
        torch.add(channel, low_pass(others[:, place] - channel), out=result[:, place])
    return result


def chroma(images: Tensor, others: Tensor) -> Tensor:
    """Return the luma of images and the chroma of the others, (B, 3, H, W); grey images as they are."""
    if images.shape[1] != 3:
        return images
    luma = torch.zeros_like(images[:, :1])
    for place, weight in enumerate((0.299, 0.587, 0.114)):
        luma.add_(images[:, place : place + 1] - others[:, place : place + 1], alpha=weight)
    return others + luma


FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"adain": adain, "wavelet": wavelet, "chroma": chroma}
