"""Corrections of an enlarged image by the image that it was made from.

A network may shift colours by a little, most of all one in latents. Each function returns the image with the
colours of the other, and its own detail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ColourFix = Literal["none", "adain", "wavelet", "chroma"]

LEVELS = 5
"""Of wavelets: colours of areas of 2^5 pixels and more come from the other image."""


def adain(images: Tensor, others: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the mean and the standard deviation of the others, in each channel."""
    std, mean = torch.std_mean(images, (2, 3), keepdim=True, correction=0)
    other_std, other_mean = torch.std_mean(others, (2, 3), keepdim=True, correction=0)
    return (images - mean) / std.clamp_min(1e-6) * other_std + other_mean


def low_pass(images: Tensor) -> Tensor:
    """Return what is left of images (B, C, H, W) after ``LEVELS`` of the à trous wavelets, edges repeated."""
    kernel = images.new_tensor([1.0, 2.0, 1.0]) / 4
    channels = images.shape[1]
    for level in range(LEVELS):
        reach = 2**level
        for shape, pad in (((1, 3), (reach, reach, 0, 0)), ((3, 1), (0, 0, reach, reach))):
            weight = kernel.view(1, 1, *shape).expand(channels, 1, *shape)
            wide = F.pad(images, pad, mode="replicate")
            images = F.conv2d(wide, weight, groups=channels, dilation=reach)
    return images


def wavelet(images: Tensor, others: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the low frequencies of the others; StableSR (2305.07015)."""
    return images - low_pass(images) + low_pass(others)


def chroma(images: Tensor, others: Tensor) -> Tensor:
    """Return the luma of images and the chroma of the others, (B, 3, H, W); grey images as they are."""
    if images.shape[1] != 3:
        return images
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return others + ((images - others) * weights).sum(1, keepdim=True)


FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"adain": adain, "wavelet": wavelet, "chroma": chroma}
