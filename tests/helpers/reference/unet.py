"""The DDPM++ network, written down a second time as one function of a state dict."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def group_norm(x, state, name):
    batch, channels, height, width = x.shape
    groups = min(channels // 4, 32)
    grouped = x.reshape(batch, groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    grouped = centred / (centred.pow(2).mean(2, keepdim=True) + 1e-6).sqrt()
    x = grouped.reshape(batch, channels, height, width)
    return x * state[f"{name}.weight"][None, :, None, None] + state[f"{name}.bias"][None, :, None, None]


def silu(x):
    return x * torch.sigmoid(x)


def conv(x, state, name):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def up(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def down(x):
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def res_block(x, temb, state, name, resample=None):
    h = silu(group_norm(x, state, f"{name}.norm0"))
    if resample:
        h, x = resample(h), resample(x)
    h = conv(h, state, f"{name}.conv0") + linear(silu(temb), state, f"{name}.affine")[:, :, None, None]
    h = conv(silu(group_norm(h, state, f"{name}.norm1")), state, f"{name}.conv1")
    if h.shape[1] != x.shape[1] or resample:
        x = conv(x, state, f"{name}.skip")
    return (x + h) / math.sqrt(2)


def attention_block(x, state, name):
    batch, channels, height, width = x.shape
    tokens = group_norm(x, state, f"{name}.norm").reshape(batch, channels, -1)  # b c i
    weights, biases = state[f"{name}.qkv.weight"].chunk(3), state[f"{name}.qkv.bias"].chunk(3)
    q, k, v = (
        torch.einsum("oc,bci->boi", w, tokens) + b[None, :, None]
        for w, b in zip(weights, biases, strict=True)
    )
    scores = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(channels), dim=2)
    h = torch.einsum("bij,bcj->bci", scores, v)
    h = torch.einsum("oc,bci->boi", state[f"{name}.out.weight"], h) + state[f"{name}.out.bias"][None, :, None]
    return (x + h.reshape(batch, channels, height, width)) / math.sqrt(2)


def unet(state, x, t, *, width, multipliers, blocks, attention_resolutions, label=None):
    half = width // 2
    frequencies = torch.tensor([math.exp(-math.log(10000) * i / (half - 1)) for i in range(half)])
    phase = 999 * t[:, None] * frequencies
    temb = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
    temb = linear(silu(linear(temb, state, "time.layers.0")), state, "time.layers.2")
    if label is not None:
        temb = temb + state["label.table.weight"][label]

    h = conv(x, state, "stem")
    skips, number = [h], 0
    for level in range(len(multipliers)):
        for _ in range(blocks):
            h = res_block(h, temb, state, f"encoder.{number}.block")
            if h.shape[-1] in attention_resolutions:
                h = attention_block(h, state, f"encoder.{number}.attention")
            skips.append(h)
            number += 1
        if level < len(multipliers) - 1:
            h = res_block(h, temb, state, f"encoder.{number}.block", down)
            skips.append(h)
            number += 1

    h = res_block(h, temb, state, "bottleneck.0.block")
    h = attention_block(h, state, "bottleneck.0.attention")
    h = res_block(h, temb, state, "bottleneck.1.block")

    number = 0
    for level in reversed(range(len(multipliers))):
        for i in range(blocks + 1):
            h = res_block(torch.cat([h, skips.pop()], 1), temb, state, f"decoder.{number}.block")
            if i == blocks and h.shape[-1] in attention_resolutions:
                h = attention_block(h, state, f"decoder.{number}.attention")
            number += 1
        if level:
            h = res_block(h, temb, state, f"decoder.{number}.block", up)
            number += 1
    assert not skips
    return conv(silu(group_norm(h, state, "head_norm")), state, "head")
