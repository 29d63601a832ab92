"""LPIPS on VGG16, written down a second time from the paper (Zhang et al. 2018, eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

CONVS_PER_LEVEL = (2, 2, 3, 3, 3)


def features(x, convs):
    """ReLU outputs at the end of each level, before its max-pooling; convs: list of (weight, bias)."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((x + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    convs, found = iter(convs), []
    for level, count in enumerate(CONVS_PER_LEVEL):
        if level:
            x = F.max_pool2d(x, 2)
        for _ in range(count):
            x = F.conv2d(x, *next(convs), padding=1).clamp_min(0)
        found.append(x)
    return found


def lpips(a, b, convs, heads):
    """a, b (B, 3, H, W) in [-1, 1]; heads: one vector per level."""
    total = torch.zeros(len(a))
    for fa, fb, head in zip(features(a, convs), features(b, convs), heads, strict=True):
        fa, fb = fa / fa.norm(dim=1, keepdim=True), fb / fb.norm(dim=1, keepdim=True)
        total += ((fa - fb) ** 2 * head[:, None, None]).sum(1).mean((1, 2))
    return total
