"""Latent diffusion's autoencoder with a codebook, on a state dict with the names of its files, step by step.

Written from the order of its layers, without a look at ``flowlit/networks``. Slow on purpose.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def shapes(width=32, mult=(1, 2), blocks=1, latents=3, codes=16, channels=3):
    """Name and shape of each weight, in the order of construction."""
    found = {}

    def residual(name, i, o):
        found.update({f"{name}.norm1": (i,), f"{name}.conv1": (o, i, 3, 3)})
        found.update({f"{name}.norm2": (o,), f"{name}.conv2": (o, o, 3, 3)})
        if i != o:
            found[f"{name}.nin_shortcut"] = (o, i, 1, 1)

    def middle(name, c):
        residual(f"{name}.block_1", c, c)
        found[f"{name}.attn_1.norm"] = (c,)
        found.update({f"{name}.attn_1.{part}": (c, c, 1, 1) for part in ("q", "k", "v", "proj_out")})
        residual(f"{name}.block_2", c, c)

    found["encoder.conv_in"] = (width, channels, 3, 3)
    here = width
    for level, m in enumerate(mult):
        for block in range(blocks):
            residual(f"encoder.down.{level}.block.{block}", here, width * m)
            here = width * m
        if level < len(mult) - 1:
            found[f"encoder.down.{level}.downsample.conv"] = (here, here, 3, 3)
    middle("encoder.mid", here)
    found.update({"encoder.norm_out": (here,), "encoder.conv_out": (latents, here, 3, 3)})
    found["decoder.conv_in"] = (here, latents, 3, 3)
    middle("decoder.mid", here)
    for level in reversed(range(len(mult))):
        for block in range(blocks + 1):
            residual(f"decoder.up.{level}.block.{block}", here, width * mult[level])
            here = width * mult[level]
        if level:
            found[f"decoder.up.{level}.upsample.conv"] = (here, here, 3, 3)
    found.update({"decoder.norm_out": (here,), "decoder.conv_out": (channels, here, 3, 3)})
    found["quant_conv"] = found["post_quant_conv"] = (latents, latents, 1, 1)
    found["quantize.embedding"] = (codes, latents)
    return found


def state(seed=0, **sizes):
    """Weights with the names of a file."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(**sizes).items():
        noise = torch.randn(shape, generator=draw)
        fan = noise[0].numel() if len(shape) > 2 else 1
        found[f"{name}.weight"] = noise / math.sqrt(fan) if len(shape) > 1 else 1 + 0.2 * noise
        if name != "quantize.embedding":
            found[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=draw)
    return found


def conv(x, weights, name, padding=None, **options):
    weight = weights[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if padding is None else padding
    return F.conv2d(x, weight, weights[f"{name}.bias"], padding=padding, **options)


def norm(x, weights, name):
    grouped = x.reshape(len(x), 32, -1)
    variance = grouped.var(2, unbiased=False, keepdim=True)
    x = ((grouped - grouped.mean(2, keepdim=True)) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def silu(x):
    return x * torch.sigmoid(x)


def residual(x, weights, name):
    h = conv(silu(norm(x, weights, f"{name}.norm1")), weights, f"{name}.conv1")
    h = conv(silu(norm(h, weights, f"{name}.norm2")), weights, f"{name}.conv2")
    short = f"{name}.nin_shortcut"
    return h + (conv(x, weights, short) if f"{short}.weight" in weights else x)


def middle(x, weights, name):
    x = residual(x, weights, f"{name}.block_1")
    h = norm(x, weights, f"{name}.attn_1.norm")
    q, k, v = (conv(h, weights, f"{name}.attn_1.{part}").flatten(2) for part in "qkv")
    weight = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(q.shape[1]), 2)
    h = torch.einsum("bnm,bcm->bcn", weight, v).reshape(x.shape)
    x = x + conv(h, weights, f"{name}.attn_1.proj_out")
    return residual(x, weights, f"{name}.block_2")


def count(weights, pattern):
    number = 0
    while f"{pattern.format(number)}.weight" in weights:
        number += 1
    return number


def encode(weights, x):
    h = conv(x, weights, "encoder.conv_in")
    for level in range(count(weights, "encoder.down.{}.block.0.conv1")):
        for block in range(count(weights, f"encoder.down.{level}.block.{{}}.conv1")):
            h = residual(h, weights, f"encoder.down.{level}.block.{block}")
        change = f"encoder.down.{level}.downsample.conv"
        if f"{change}.weight" in weights:  # a row and a column of zeros at the end, none at the beginning
            wider = torch.zeros(*h.shape[:2], h.shape[2] + 1, h.shape[3] + 1)
            wider[:, :, :-1, :-1] = h
            h = conv(wider, weights, change, padding=0, stride=2)
    h = middle(h, weights, "encoder.mid")
    h = conv(silu(norm(h, weights, "encoder.norm_out")), weights, "encoder.conv_out")
    return conv(h, weights, "quant_conv")


def nearest(weights, z):
    codes = weights["quantize.embedding.weight"]
    result = torch.empty_like(z)
    for b in range(len(z)):
        for y in range(z.shape[2]):
            for x in range(z.shape[3]):
                distances = [float((z[b, :, y, x] - code).square().sum()) for code in codes]
                result[b, :, y, x] = codes[distances.index(min(distances))]
    return result


def decode(weights, z):
    h = conv(nearest(weights, z), weights, "post_quant_conv")
    h = middle(conv(h, weights, "decoder.conv_in"), weights, "decoder.mid")
    for level in reversed(range(count(weights, "decoder.up.{}.block.0.conv1"))):
        for block in range(count(weights, f"decoder.up.{level}.block.{{}}.conv1")):
            h = residual(h, weights, f"decoder.up.{level}.block.{block}")
        if level:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = conv(h, weights, f"decoder.up.{level}.upsample.conv")
    return conv(silu(norm(h, weights, "decoder.norm_out")), weights, "decoder.conv_out")
