"""The DDPM++ network of RectifiedFlow's and SlimFlow's files, part by part in the order that numbers their
keys.

Written from `checkpoints.md` section 1 and `method.md` section 4.1 alone, without a look at
`flowlit/networks`. Slow on purpose.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn


def swish(x):
    return x * torch.sigmoid(x)


def norm_layer(channels):
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def double(x):
    """Repeat every pixel 2 × 2 times."""
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halve(x):
    """Average each 2 × 2 square."""
    return (x[:, :, 0::2, 0::2] + x[:, :, 1::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def time_features(labels, channels):
    half = channels // 2
    features = torch.empty(len(labels), channels, dtype=labels.dtype)
    for i in range(half):
        frequency = math.exp(-math.log(10000) * i / (half - 1))
        features[:, i] = torch.sin(labels * frequency)
        features[:, half + i] = torch.cos(labels * frequency)
    return features


class NIN(nn.Module):
    """A 1 × 1 convolution whose matrix is stored as (in, out)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.W = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.einsum("bihw,io->bohw", x, self.W) + self.b[None, :, None, None]


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.GroupNorm_0 = norm_layer(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.GroupNorm_0(x)
        query = self.NIN_0(h).reshape(batch, channels, -1)
        key = self.NIN_1(h).reshape(batch, channels, -1)
        value = self.NIN_2(h).reshape(batch, channels, -1)
        weights = torch.einsum("bcq,bck->bqk", query, key) / math.sqrt(channels)
        weights = weights.softmax(dim=2)
        h = torch.einsum("bqk,bck->bcq", weights, value).reshape(batch, channels, height, width)
        return (x + self.NIN_3(h)) / math.sqrt(2)


class Residual(nn.Module):
    def __init__(self, inputs, outputs, nf, up=False, down=False):
        super().__init__()
        self.up, self.down = up, down
        self.GroupNorm_0 = norm_layer(inputs)
        self.Conv_0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.Dense_0 = nn.Linear(4 * nf, outputs)
        self.GroupNorm_1 = norm_layer(outputs)
        self.Dropout_0 = nn.Dropout(0.15)
        self.Conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs or up or down:
            self.Conv_2 = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, temb):
        h = swish(self.GroupNorm_0(x))
        if self.up:
            h, x = double(h), double(x)
        if self.down:
            h, x = halve(h), halve(x)
        h = self.Conv_0(h) + self.Dense_0(swish(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(swish(self.GroupNorm_1(h))))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2)


class NCSNpp(nn.Module):
    """`forward(x, labels)` with labels = 999 t; its keys are `sigmas` and `all_modules.{i}.…`."""

    def __init__(self, nf, mult, blocks, resolution, channels=3, attention_resolutions=(16,)):
        super().__init__()
        self.nf, self.mult, self.blocks, self.resolution = nf, tuple(mult), blocks, resolution
        self.channels, self.attention_resolutions = channels, tuple(attention_resolutions)
        # The geometric noise levels of score models, float64 because numpy made them; a flow does not use
        # them.
        self.register_buffer("sigmas", torch.tensor(np.exp(np.linspace(np.log(50.0), np.log(0.01), 1000))))

        parts = [nn.Linear(nf, 4 * nf), nn.Linear(4 * nf, 4 * nf), nn.Conv2d(channels, nf, 3, padding=1)]
        levels = len(mult)
        width = nf
        skips = [nf]
        for level in range(levels):
            for _ in range(blocks):
                parts.append(Residual(width, nf * mult[level], nf))
                width = nf * mult[level]
                if self.attends(level):
                    parts.append(Attention(width))
                skips.append(width)
            if level != levels - 1:
                parts.append(Residual(width, width, nf, down=True))
                skips.append(width)
        parts += [Residual(width, width, nf), Attention(width), Residual(width, width, nf)]
        for level in reversed(range(levels)):
            for _ in range(blocks + 1):
                parts.append(Residual(width + skips.pop(), nf * mult[level], nf))
                width = nf * mult[level]
            if self.attends(level):
                parts.append(Attention(width))
            if level != 0:
                parts.append(Residual(width, width, nf, up=True))
        assert not skips
        parts += [norm_layer(width), nn.Conv2d(width, channels, 3, padding=1)]
        self.all_modules = nn.ModuleList(parts)

    def attends(self, level):
        return self.resolution // 2**level in self.attention_resolutions

    def forward(self, x, labels):
        parts = iter(self.all_modules)
        levels = len(self.mult)
        temb = next(parts)(time_features(labels, self.nf).to(x))
        temb = next(parts)(swish(temb))
        h = next(parts)(x)
        skips = [h]
        for level in range(levels):
            for _ in range(self.blocks):
                h = next(parts)(h, temb)
                if self.attends(level):
                    h = next(parts)(h)
                skips.append(h)
            if level != levels - 1:
                h = next(parts)(h, temb)
                skips.append(h)
        h = next(parts)(h, temb)
        h = next(parts)(h)
        h = next(parts)(h, temb)
        for level in reversed(range(levels)):
            for _ in range(self.blocks + 1):
                h = next(parts)(torch.cat([h, skips.pop()], dim=1), temb)
            if self.attends(level):
                h = next(parts)(h)
            if level != 0:
                h = next(parts)(h, temb)
        h = swish(next(parts)(h))
        h = next(parts)(h)
        assert not skips and next(parts, None) is None
        return h


class Velocity(nn.Module):
    """`v(x, t)` of the network above."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t):
        return self.network(x, 999 * t)
