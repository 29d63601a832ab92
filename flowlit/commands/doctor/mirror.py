"""A test of what flips presume: that images are, on average, symmetric."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

MOST = 1024
"""Images that are looked at."""


FEWEST = 256
"""With fewer, nothing is said."""


def asymmetry(images: Tensor) -> float:
    """Largest difference between the mean image and its mirror image, in standard errors of that difference.

    If mirrored images are as likely as the images themselves, every pixel's difference is a mean of zero; a
    pixel that differs always by the same is infinitely far from that.

    Args:
        images: (N, C, H, W), independent of each other.
    """
    difference = images.double() - images.double().flip(-1)
    mean = difference.mean(0).abs()
    error = difference.std(0) / len(images) ** 0.5
    return float(torch.where(mean > 0, mean / error, 0.0).max())


def bound(pixels: int, chance: float = 1e-6) -> float:
    """Return the value that ``asymmetry`` stays below with probability 1 - chance if images are symmetric.

    The bound is Bonferroni's.

    Pixels may depend on each other in any way; each mean is taken as normal. With 1,024 images only
    differences of about 0.2 standard deviations of a pixel are found, so that photographs, which are
    symmetric but for a little, pass.

    >>> round(bound(1, 0.05), 2)
    1.96
    """
    return NormalDist().inv_cdf(1 - chance / (2 * pixels))
