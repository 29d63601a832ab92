"""How near generated images are to training images: whether a model copies."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of uint8 images (A, C, H, W) and (B, C, H, W), in units of [-1, 1]: (A, B)
    in [0, 2].

    In float64, where sums of squares of whole numbers are exact, so that copies have distance 0 also by
    matrix products.

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
    found = queries.new_empty((len(queries), 0), dtype=torch.float64)
    where = queries.new_empty((len(queries), 0), dtype=torch.int64)
    start = 0
    for block in blocks:
        distance = pixel_distance(queries, block.to(queries.device))
        index = torch.arange(start, start + len(block), device=queries.device).expand(len(queries), -1)
        if own is not None:
            distance = distance.masked_fill(index == own[:, None], torch.inf)
        found = torch.cat([found, distance], 1)
        where = torch.cat([where, index], 1)
        found, best = found.topk(min(k, found.shape[1]), dim=1, largest=False)
        where = where.gather(1, best)
        start += len(block)
    return found, where


def memorisation(to_training: Tensor, among_training: Tensor) -> Tensor:
    """Median distance of samples to their nearest training image / median distance of training images to each
    other's nearest.

    Near 1 or above, samples are as far from the training images as these are among themselves; near 0, they
    are copies.
    """
    return to_training.double().quantile(0.5) / among_training.double().quantile(0.5)
