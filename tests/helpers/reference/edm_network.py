"""EDM's two networks and its preconditioning, with the keys of its files.

Written from `checkpoints.md` section 2 and `method.md` sections 4.2, 4.4 and 4.5 alone, without a look at
`flowlit/networks`. Slow on purpose. What the sheets leave open is marked "assumed".
"""

from __future__ import annotations

import math

import torch
from torch import nn


def silu(x):
    return x * torch.sigmoid(x)


def positions(noise, channels, endpoint):
    """[cos, sin], frequencies 10000^(-i / half), or … (half - 1) with the endpoint."""
    half = channels // 2
    columns = [noise * 10000.0 ** (-i / (half - 1 if endpoint else half)) for i in range(half)]
    return torch.stack([torch.cos(c) for c in columns] + [torch.sin(c) for c in columns], dim=1)


class GroupNorm(nn.Module):
    def __init__(self, channels, eps):
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        grouped = x.reshape(len(x), self.groups, -1)
        mean = grouped.mean(dim=2, keepdim=True)
        variance = (grouped - mean).square().mean(dim=2, keepdim=True)
        x = ((grouped - mean) / torch.sqrt(variance + self.eps)).reshape(x.shape)
        return x * self.weight[None, :, None, None] + self.bias[None, :, None, None]


class Conv(nn.Module):
    """A convolution, after resampling with the box filter; kernel 0 only resamples."""

    def __init__(self, inputs, outputs, kernel, up=False, down=False):
        super().__init__()
        self.kernel, self.up, self.down = kernel, up, down
        if kernel:
            self.weight = nn.Parameter(
                torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2)
            )
            self.bias = nn.Parameter(torch.zeros(outputs))
        if up or down:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        if self.up:  # each pixel is spread over 2 × 2 with four times the filter
            channels = x.shape[1]
            taps = (4 * self.resample_filter).expand(channels, 1, 2, 2)
            x = nn.functional.conv_transpose2d(x, taps.to(x), stride=2, groups=channels)
        if self.down:
            channels = x.shape[1]
            x = nn.functional.conv2d(
                x, self.resample_filter.expand(channels, 1, 2, 2).to(x), stride=2, groups=channels
            )
        if self.kernel:
            x = nn.functional.conv2d(x, self.weight, self.bias, padding=self.kernel // 2)
        return x


class Block(nn.Module):
    """One residual block with its attention; `adaptive` is ADM's scale and shift, otherwise the embedding is
    added.
    """

    def __init__(
        self, inputs, outputs, embedding, *, up=False, down=False, heads=0, adaptive, eps, scale, project
    ):
        super().__init__()
        self.adaptive, self.scale, self.heads = adaptive, scale, heads
        self.norm0 = GroupNorm(inputs, eps)
        self.conv0 = Conv(inputs, outputs, 3, up, down)
        self.affine = nn.Linear(embedding, outputs * (2 if adaptive else 1))
        self.norm1 = GroupNorm(outputs, eps)
        self.conv1 = Conv(outputs, outputs, 3)
        self.skip = None
        if inputs != outputs or up or down:
            self.skip = Conv(inputs, outputs, 1 if inputs != outputs or project else 0, up, down)
        if heads:
            self.norm2 = GroupNorm(outputs, eps)
            self.qkv = Conv(outputs, 3 * outputs, 1)
            self.proj = Conv(outputs, outputs, 1)

    def forward(self, x, emb):
        h = self.conv0(silu(self.norm0(x)))
        affine = self.affine(emb)[:, :, None, None]
        if self.adaptive:
            scale, shift = affine[:, : affine.shape[1] // 2], affine[:, affine.shape[1] // 2 :]
            h = silu(self.norm1(h) * (1 + scale) + shift)
        else:
            h = silu(self.norm1(h + affine))
        h = self.conv1(h)
        x = (h + (x if self.skip is None else self.skip(x))) * self.scale
        if self.heads:
            x = (self.proj(self.attend(self.qkv(self.norm2(x)))) + x) * self.scale
        return x

    def attend(self, qkv):
        """Channel (head · width + c) · 3 + j of qkv is entry c of that head's query (j = 0), key (1) or value
        (2).
        """
        batch, triple, height, width = qkv.shape
        per_head = triple // 3 // self.heads
        outputs = []
        for head in range(self.heads):
            first = head * per_head * 3
            query, key, value = (qkv[:, first + j : first + 3 * per_head : 3].flatten(2) for j in range(3))
            weights = (query.transpose(1, 2) @ key / math.sqrt(per_head)).softmax(dim=2)
            outputs.append((weights @ value.transpose(1, 2)).transpose(1, 2))
        return torch.cat(outputs, dim=1).reshape(batch, triple // 3, height, width)


class SongUNet(nn.Module):
    """SongUNet set up as DDPM++: the stem has nf channels, attention ends each decoder level that has it."""

    def __init__(
        self, nf, mult, blocks, resolution, channels=3, attention_resolutions=(16,), classes=0, augment=0
    ):
        super().__init__()
        self.nf, self.classes, self.augment, self.resolution, self.channels = (
            nf,
            classes,
            augment,
            resolution,
            channels,
        )
        self.mult, self.blocks, self.attention_resolutions = tuple(mult), blocks, tuple(attention_resolutions)
        self.scale_labels = math.sqrt(classes)
        if classes:
            self.map_label = nn.Linear(classes, nf)  # assumed: with a bias
        if augment:
            self.map_augment = nn.Linear(augment, nf, bias=False)
        self.map_layer0 = nn.Linear(nf, 4 * nf)
        self.map_layer1 = nn.Linear(4 * nf, 4 * nf)

        def block(inputs, outputs, attention=False, up=False, down=False):
            return Block(
                inputs,
                outputs,
                4 * nf,
                up=up,
                down=down,
                heads=int(attention),
                adaptive=False,
                eps=1e-6,
                scale=0.5**0.5,
                project=True,
            )

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        width, skips = nf, []
        for level in range(len(mult)):
            size = resolution // 2**level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = Conv(channels, nf, 3)
            else:
                self.enc[f"{size}x{size}_down"] = block(width, width, down=True)
            skips.append(width)
            for k in range(blocks):
                self.enc[f"{size}x{size}_block{k}"] = block(
                    width, nf * mult[level], attention=size in attention_resolutions
                )
                width = nf * mult[level]
                skips.append(width)
        for level in reversed(range(len(mult))):
            size = resolution // 2**level
            if level == len(mult) - 1:
                self.dec[f"{size}x{size}_in0"] = block(width, width, attention=True)
                self.dec[f"{size}x{size}_in1"] = block(width, width)
            else:
                self.dec[f"{size}x{size}_up"] = block(width, width, up=True)
            for k in range(blocks + 1):
                last = k == blocks and size in attention_resolutions
                self.dec[f"{size}x{size}_block{k}"] = block(
                    width + skips.pop(), nf * mult[level], attention=last
                )
                width = nf * mult[level]
        self.dec[f"{resolution}x{resolution}_aux_norm"] = GroupNorm(width, 1e-6)
        self.dec[f"{resolution}x{resolution}_aux_conv"] = Conv(width, channels, 3)

    def forward(self, x, noise, labels=None):
        emb = positions(noise, self.nf, endpoint=True)
        emb = torch.cat([emb[:, self.nf // 2 :], emb[:, : self.nf // 2]], dim=1)
        if self.classes:
            emb = emb + self.map_label(labels * self.scale_labels)
        if self.augment:
            emb = emb + self.map_augment(torch.zeros(len(x), self.augment, dtype=emb.dtype))
        emb = silu(self.map_layer0(emb))
        emb = silu(self.map_layer1(emb))

        skips = []
        for name, part in self.enc.items():
            x = part(x) if name.endswith("_conv") else part(x, emb)
            skips.append(x)
        for name, part in self.dec.items():
            if name.endswith("_aux_norm"):
                x = silu(part(x))
            elif name.endswith("_aux_conv"):
                x = part(x)
            else:
                x = part(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        assert not skips
        return x


class DhariwalUNet(nn.Module):
    """ADM: the stem has nf · mult[0] channels, attention in every block of the resolutions that have it."""

    def __init__(
        self,
        nf,
        mult,
        blocks,
        resolution,
        channels=3,
        attention_resolutions=(32, 16),
        classes=0,
        augment=0,
        head_channels=64,
    ):
        super().__init__()
        self.nf, self.classes, self.augment, self.resolution, self.channels = (
            nf,
            classes,
            augment,
            resolution,
            channels,
        )
        self.mult, self.blocks, self.attention_resolutions = tuple(mult), blocks, tuple(attention_resolutions)
        if augment:
            self.map_augment = nn.Linear(augment, nf, bias=False)
        self.map_layer0 = nn.Linear(nf, 4 * nf)
        self.map_layer1 = nn.Linear(4 * nf, 4 * nf)
        if classes:
            self.map_label = nn.Linear(classes, 4 * nf, bias=False)

        def block(inputs, outputs, attention=False, up=False, down=False):
            heads = outputs // head_channels if attention else 0
            assert not attention or heads, "too narrow for a head"
            return Block(
                inputs,
                outputs,
                4 * nf,
                up=up,
                down=down,
                heads=heads,
                adaptive=True,
                eps=1e-5,
                scale=1.0,
                project=False,
            )

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        width, skips = nf * mult[0], []
        for level in range(len(mult)):
            size = resolution // 2**level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = Conv(channels, width, 3)
            else:
                self.enc[f"{size}x{size}_down"] = block(width, width, down=True)
            skips.append(width)
            for k in range(blocks):
                self.enc[f"{size}x{size}_block{k}"] = block(
                    width, nf * mult[level], attention=size in attention_resolutions
                )
                width = nf * mult[level]
                skips.append(width)
        for level in reversed(range(len(mult))):
            size = resolution // 2**level
            if level == len(mult) - 1:
                self.dec[f"{size}x{size}_in0"] = block(width, width, attention=True)
                self.dec[f"{size}x{size}_in1"] = block(width, width)
            else:
                self.dec[f"{size}x{size}_up"] = block(width, width, up=True)
            for k in range(blocks + 1):
                attention = size in attention_resolutions
                self.dec[f"{size}x{size}_block{k}"] = block(
                    width + skips.pop(), nf * mult[level], attention=attention
                )
                width = nf * mult[level]
        self.out_norm = GroupNorm(width, 1e-5)
        self.out_conv = Conv(width, channels, 3)

    def forward(self, x, noise, labels=None):
        emb = positions(noise, self.nf, endpoint=False)
        if self.augment:
            emb = emb + self.map_augment(torch.zeros(len(x), self.augment, dtype=emb.dtype))
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        if self.classes:
            emb = emb + self.map_label(labels)
        emb = silu(emb)

        skips = []
        for name, part in self.enc.items():
            x = part(x) if name.endswith("_conv") else part(x, emb)
            skips.append(x)
        for name, part in self.dec.items():
            x = part(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        assert not skips
        return self.out_conv(silu(self.out_norm(x)))


class EDMPrecond(nn.Module):
    """The denoiser D(y; σ); the network's keys get the prefix `model.`."""

    def __init__(self, model, sigma_data=0.5):
        super().__init__()
        self.model, self.sigma_data = model, sigma_data

    def forward(self, y, sigma, labels=None):
        sigma = sigma.reshape(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        skip = self.sigma_data**2 / total
        out = sigma * self.sigma_data / total.sqrt()
        return skip * y + out * self.model(y / total.sqrt(), sigma.flatten().log() / 4, labels)


class Velocity(nn.Module):
    """`v(x, t, labels)` of SlimFlow's ADM: the bare network, told 999 t."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t, labels=None):
        return self.network(x, 999 * t, labels)
