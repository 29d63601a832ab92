"""Measures of images against the images that they should be: super-resolution's.

Numbers of the same name differ by decibels between papers that do not state channel, range, border and
rounding. Here images are uint8, rounded before they are measured, and the rest of the protocol is in a
metric's name. A number over images is the mean of those of single images, with its standard error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeInt
from .base import jackknife
from .report import Estimate

Channel = Literal["rgb", "y", "luma"]

STUDIO = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""Weights of R, G, B in {0 … 255} for Y of BT.601 above 16, as MATLAB's rgb2ycbcr: Y is in [16, 235]."""
FULL = (0.299, 0.587, 0.114)
"""Weights for luma in the full range, [0, 255], as OpenCV and YIQ have it: 1.3219 dB below ``STUDIO``."""

WINDOW = 11
"""Pixels of SSIM's Gaussian window, of standard deviation 1.5; Wang et al. 2004."""


def channels_of(images: Tensor, channel: Channel) -> Tensor:
    """Return what is measured of uint8 images (B, C, H, W), (B, C or 1, H, W) float64 in units of 8 bits.

    Grey images have R = G = B. Y and luma are not rounded again.

    >>> channels_of(torch.tensor([255, 0], dtype=torch.uint8).view(2, 1, 1, 1), "y").flatten().tolist()
    [235.0, 16.0]
    """
    values = images.double()
    if channel == "rgb":
        return values
    weights = values.new_tensor(STUDIO if channel == "y" else FULL)
    offset = 16 if channel == "y" else 0
    return (values.expand(-1, 3, -1, -1) * weights[:, None, None]).sum(1, keepdim=True) + offset


def cropped(images: Tensor, crop: int) -> Tensor:
    """Return images (B, C, H, W) without ``crop`` pixels at each border."""
    return images[..., crop : images.shape[-2] - crop, crop : images.shape[-1] - crop]


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image, (B,) in dB; infinite for equal ones.

    Args:
        images, targets: (B, C, H, W) in units of 8 bits; the peak is 255.
    """
    error = (images.double() - targets.double()).square().flatten(1).mean(1)
    return 20 * torch.log10(255 / error.sqrt())


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Return the structural similarity of each image, (B,), 1 for equal ones.

    The mean of the map where the window is inside the image, over channels, without downsampling. Wang et
    al. 2004, with K = 0.01 and 0.03.

    Args:
        images, targets: (B, C, H, W) in units of 8 bits, of ``WINDOW`` pixels a side at least.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    edge = WINDOW // 2
    means = []
    for image, target in zip(images.double()[:, None], targets.double()[:, None], strict=True):
        _, every = similarity(
            image, target, sigma=1.5, reduction="none", data_range=255.0, return_full_image=True
        )
        means.append(cropped(every, edge).mean())  # outside, torchmetrics mirrors the image
    return torch.stack(means)


def consistency(images: Tensor, lr: Tensor) -> Tensor:
    """Return the PSNR of images brought down again against their low-resolution input, (B,) in dB.

    Args:
        images: A x̂, float (B, C, h, w) in [0, 1]: the output through the degradation, without its noise.
        lr: y, float (B, C, h, w) in [0, 1].
    """
    return psnr(255 * images, 255 * lr)


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of a metric over images, (N,), with its standard error, which is the jackknife's.

    >>> mean_of(torch.tensor([1.0, 3.0]))
    Estimate(value=2.0, spread=1.0)
    """
    values = values.double()
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return Estimate(values.mean().item(), spread)


def variance_ratio(squared_spread: Tensor, squared_error: Tensor) -> Estimate:
    """Return r = E‖x̂ - m̂‖² / E‖m̂ - x‖², with its jackknife spread over images.

    1 for samples of the posterior, whose mean squared error is (1 + r) times the least; 0 for its mean.

    Args:
        squared_spread: ‖x̂ - m̂‖² of each image, (N,), where m̂ is the estimate of the posterior mean, as one
            Euler step from t = 0 gives it.
        squared_error: ‖m̂ - x‖² of each image, (N,).
    """
    a = squared_spread.double()
    b = squared_error.double()
    ratio = (a.sum() / b.sum()).item()
    if len(a) < 2:
        return Estimate(ratio)
    return Estimate(ratio, jackknife((a.sum() - a) / (b.sum() - b)))


class PairedMetric(Checked, ABC):
    """A measure of images against the images that they should be, one number each."""

    larger_is_better: bool = True

    @property
    @abstractmethod
    def name(self) -> str:
        """Part of every tag, with all of the protocol in which numbers may differ."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Name and protocol in words, for tables."""

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return (B,) float64 for images and targets, (B, C, H, W) uint8."""


@dataclass
class _OfPixels(PairedMetric):
    channel: Channel = "rgb"
    crop: NonNegativeInt = 0

    kind = ""
    smallest = 1

    @property
    def name(self) -> str:
        standard = {"rgb": "rgb", "y": "y_bt601", "luma": "luma_full"}[self.channel]
        return f"{self.kind}_{standard}_crop{self.crop}"

    @property
    def title(self) -> str:
        shown = {"rgb": "RGB", "y": "Y (BT.601)", "luma": "luma (full range)"}[self.channel]
        return f"{self.kind.upper()} {shown}, crop {self.crop}, 8 bits"

    def measured(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channel of images and targets (B, C, H, W) uint8 inside the border, float64 each.

        Raises:
            FlowlitError: for other tensors, other sizes, and borders that leave too little.
        """
        check_paired(images, targets)
        least = 2 * self.crop + self.smallest
        if min(images.shape[-2:]) < least:
            height, width = images.shape[-2:]
            raise FlowlitError(f"{self.name}: images are {width}×{height}; expected {least} pixels a side")
        a, b = (cropped(channels_of(each, self.channel), self.crop) for each in (images, targets))
        return a, b


@dataclass
class PSNR(_OfPixels):
    """Peak signal-to-noise ratio in dB: the mean over images, of uint8.

    Args:
        channel: "rgb" is all channels; "y" is Y of BT.601 in studio range, the field's for photographs,
            1.3219 dB above "luma", which is that in full range.
        crop: pixels left out at each border; the scale for the classical sets (Set5, DIV2K), 0 for real-world
            ones.
    """

    kind = "psnr"

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        return psnr(*self.measured(images, targets))


@dataclass
class SSIM(_OfPixels):
    """Structural similarity, the mean over windows inside the image and over images, of uint8.

    torchmetrics computes it; what its padding adds at the border is left out, as the field does.

    Args:
        channel: as for ``PSNR``.
        crop: pixels left out at each border first.
    """

    kind = "ssim"
    smallest = WINDOW

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        return ssim(*self.measured(images, targets))


def check_paired(images: Tensor, targets: Tensor) -> None:
    """Refuse tensors that are no uint8 images (B, C, H, W) of one shape, grey or RGB.

    Raises:
        FlowlitError: naming both.
    """
    right = all(each.dtype == torch.uint8 and each.ndim == 4 for each in (images, targets))
    if not right or images.shape != targets.shape or images.shape[1] not in (1, 3) or not len(images):
        shown = " and ".join(f"{each.dtype} {tuple(each.shape)}" for each in (images, targets))
        raise FlowlitError(
            f"images and targets are {shown}; expected uint8 (B, C, H, W) of one shape, C 1 or 3"
        )
