"""The two-stage degradation of Real-ESRGAN: photographs as they come from cameras and the web."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability
from .bicubic import resize
from .blur_kernels import bell, pulse, sinc
from .degradations import Degradation, normal
from .jpeg import jpeg

Range = tuple[float, float]


class Stage(NamedTuple):
    """Ranges of one pass of blur, resizing, noise and JPEG, from which each image draws."""

    blur: float
    """Probability of blur."""
    sigma: Range
    """Width of the kernels, in pixels."""
    resizes: tuple[float, float, float]
    """Probabilities of enlarging, shrinking, and neither."""
    factor: Range
    """Smallest and largest factor of the size."""
    gaussian: Range
    """Standard deviation of Gaussian noise, of 255 levels."""
    poisson: Range
    """Strength of Poisson noise; 1 is that of counted photons."""


FIRST = Stage(1.0, (0.2, 3.0), (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0))
SECOND = Stage(0.8, (0.2, 1.5), (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5))

SHAPES = ("iso", "aniso", "generalised iso", "generalised aniso", "plateau iso", "plateau aniso")
SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
"""Of these kernels among those that are no sinc."""
BETA = {"generalised": (0.5, 4.0), "plateau": (1.0, 2.0)}
"""Exponents; below and above 1 with probability ½ each."""
SINC = 0.1
FINAL_SINC = 0.8
GREY_NOISE = 0.4
QUALITY = (30.0, 95.0)
MODES = ("area", "bilinear", "bicubic")


@dataclass
class RealESRGAN(Degradation):
    """Blur, resizing, noise and JPEG, twice, each of random strength: Wang et al. 2021 (2107.10833).

    Use it for photographs of unknown history. In contrast to the paper's code each image draws everything for
    itself, kinds of noise and sizes included, which need no pool of earlier images to mix batches; the kernel
    after the last resizing is a sinc with probability 0.8. The result has 8 bits. Images are enlarged again
    by the bicubic kernel of ``Bicubic``.

    Args:
        scale: width of the image over that of the result.
        second: probability of the second pass; 0.5 in ResShift (2307.12348).
    """

    scale: PositiveInt = 4
    second: Probability = 1.0

    def degrade(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return (B, C, H / scale, W / scale) of (B, C, H, W), grey or RGB.

        Raises:
            FlowlitError: for other numbers of channels.
        """
        if images.shape[1] not in (1, 3):
            raise FlowlitError(f"RealESRGAN: images have {images.shape[1]} channels; expected 1 or 3")
        return torch.stack([self._one(*each) for each in zip(images, generators, strict=True)])

    def enlarge(self, images: Tensor) -> Tensor:
        """Return (B, C, h · scale, w · scale) of (B, C, h, w)."""
        height, width = images.shape[-2:]
        return resize(images, (height * self.scale, width * self.scale))

    def _one(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        height, width = image.shape[-2:]
        size = (height // self.scale, width // self.scale)
        x = _resized(_blurred(image, FIRST, generator), (height, width), FIRST, generator)
        x = _noised(x, FIRST, generator)
        x = jpeg(x, generator.uniform(*QUALITY))
        if generator.random() < self.second:
            x = _resized(_blurred(x, SECOND, generator), size, SECOND, generator)
            x = _noised(x, SECOND, generator)
        quality = generator.uniform(*QUALITY)
        if generator.random() < 0.5:
            x = jpeg(_finished(x, size, generator), quality)
        else:
            x = _finished(jpeg(x, quality), size, generator)
        return (x * 255).round() / 255


def kernel(sigma: Range, generator: np.random.Generator) -> np.ndarray:
    """Draw a kernel of blur, (n, n) of sum 1 with n odd from 7 to 21."""
    size = 2 * int(generator.integers(3, 11)) + 1
    if generator.random() < SINC:
        return sinc(size, generator.uniform(math.pi / (3 if size < 13 else 5), math.pi))
    shape = str(generator.choice(SHAPES, p=SHARES))
    widths = generator.uniform(*sigma, 2)
    angle = generator.uniform(-math.pi, math.pi)
    profile, _, axes = shape.rpartition(" ")
    low, high = BETA.get(profile, (1.0, 1.0))
    beta = generator.uniform(low, 1) if generator.random() < 0.5 else generator.uniform(1, high)
    across = widths[0] if axes == "iso" else widths[1]
    return bell(size, (widths[0], across), angle, profile or "gaussian", beta)  # type: ignore[arg-type]


def filtered(image: Tensor, weights: np.ndarray) -> Tensor:
    """Filter an image (C, H, W) by a symmetric kernel (n, n); the image is mirrored beyond its border."""
    reach = len(weights) // 2
    mode = "reflect" if min(image.shape[-2:]) > reach else "replicate"
    padded = pad(image[None], (reach,) * 4, mode=mode).transpose(0, 1)
    return conv2d(padded, torch.from_numpy(weights).to(image)[None, None]).squeeze(1)


def _blurred(image: Tensor, stage: Stage, generator: np.random.Generator) -> Tensor:
    if generator.random() >= stage.blur:
        return image
    return filtered(image, kernel(stage.sigma, generator))


def _to_size(image: Tensor, size: tuple[int, int], generator: np.random.Generator) -> Tensor:
    return interpolate(image[None], size, mode=str(generator.choice(MODES)))[0]


def _resized(image: Tensor, around: tuple[int, int], stage: Stage, generator: np.random.Generator) -> Tensor:
    """Resize an image (C, H, W) to a random factor of a size."""
    kind = int(generator.choice(3, p=stage.resizes))
    ranges = ((1.0, stage.factor[1]), (stage.factor[0], 1.0), (1.0, 1.0))
    factor = generator.uniform(*ranges[kind])
    height, width = (max(1, int(side * factor)) for side in around)
    return _to_size(image, (height, width), generator)


def _noised(image: Tensor, stage: Stage, generator: np.random.Generator) -> Tensor:
    """Add Gaussian or Poisson noise, grey or of each channel, to an image (C, H, W); clip it to [0, 1]."""
    grey = generator.random() < GREY_NOISE
    if generator.random() < 0.5:
        noise = normal(generator, image[:1] if grey else image) * (generator.uniform(*stage.gaussian) / 255)
    else:
        noise = photons(image.mean(0, keepdim=True) if grey else image, generator)
        noise = noise * generator.uniform(*stage.poisson)
    return (image + noise).clamp(0, 1)


def photons(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Return the noise of counted photons on an image (C, H, W), (C, H, W).

    Their number at white is the power of two from the count of different levels of 8 bits on.
    """
    levels = (image.clamp(0, 1) * 255).round()
    most = 2.0 ** math.ceil(math.log2(len(levels.unique())))
    rates = levels / 255 * most
    seed = int(generator.integers(2**62))
    there = torch.Generator(image.device).manual_seed(seed)
    return (torch.poisson(rates, generator=there) - rates) / most


def _finished(image: Tensor, size: tuple[int, int], generator: np.random.Generator) -> Tensor:
    """Bring an image (C, H, W) to its size, and filter it by a sinc, or not."""
    x = _to_size(image, size, generator)
    length = 2 * int(generator.integers(3, 11)) + 1
    cutoff = generator.uniform(math.pi / 3, math.pi)
    weights = sinc(length, cutoff) if generator.random() < FINAL_SINC else pulse(length)
    return filtered(x, weights).clamp(0, 1)
