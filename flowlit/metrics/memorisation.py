"""Distances of generated images to training images: signs of copying."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference (A, B), in [0, 2], of uint8 images (A, C, H, W) and (B, C, H, W).

    In units of [-1, 1], and in float64, where sums of squares of whole numbers are exact, so that copies have
    distance 0 also by matrix products.

    >>> black = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    >>> pixel_distance(black, torch.stack([black[0], black[0] + 255])).round(decimals=9).tolist()
    [[0.0, 2.0]]
    """
    squared = torch.cdist(a.flatten(1).double(), b.flatten(1).double(), compute_mode="use_mm_for_euclid_dist")
    return squared / (127.5 * a[0].numel() ** 0.5)


def nearest(
    queries: Tensor, blocks: Iterable[Tensor], k: int, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k nearest images of each query, nearest first: distances and indices, (Q, k) each.

    Args:
        queries: uint8 (Q, C, H, W).
        blocks: all images in order, some at a time (uint8), on any device.
        k: at most the number of images (less one if the queries are among them).
        own: (Q,) indices of the queries among the images, where they may not find themselves.
    """
    distances = queries.new_empty((len(queries), 0), dtype=torch.float64)
    indices = queries.new_empty((len(queries), 0), dtype=torch.int64)
    start = 0
    for block in blocks:
        distance = pixel_distance(queries, block.to(queries.device))
        index = torch.arange(start, start + len(block), device=queries.device).expand(len(queries), -1)
        if own is not None:
            distance = distance.masked_fill(index == own[:, None], torch.inf)
        distances = torch.cat([distances, distance], 1)
        indices = torch.cat([indices, index], 1)
        distances, best = distances.topk(min(k, distances.shape[1]), dim=1, largest=False)
        indices = indices.gather(1, best)
        start += len(block)
    return distances, indices


def memorisation(to_training: Tensor, among_training: Tensor) -> Tensor:
    """Return the median distance of samples to training images, by that among training images, ().

    Near 1 or above, samples are as far from the training images as these are among themselves; near 0, they
    are copies.

    Args:
        to_training: (A,), from each sample to its nearest training image.
        among_training: (B,), from each training image to its nearest other one.
    """
    return to_training.double().quantile(0.5) / among_training.double().quantile(0.5)
