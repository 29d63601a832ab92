"""The diffusion transformer, written down a second time as one function of a state dict."""

from __future__ import annotations

import math

import torch


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def sine_table(grid, width):
    """What learned positions start from: sines of row and column, then cosines of row and column."""
    bands = [10_000 ** (-4 * k / width) for k in range(width // 4)]
    table = [
        [f(place * band) for f in (math.sin, math.cos) for place in (row, column) for band in bands]
        for row in range(grid)
        for column in range(grid)
    ]
    return torch.tensor(table)


def turn(x, grid):
    """Rotary positions: neighbouring channels of a head are complex numbers; half of them turn by row, half
    by column.
    """
    bands = x.shape[-1] // 4
    angle = torch.tensor(
        [
            [place * 100 ** (-k / bands) for place in (row, column) for k in range(bands)]
            for row in range(grid)
            for column in range(grid)
        ]
    )
    numbers = torch.complex(x[..., 0::2], x[..., 1::2]) * torch.polar(torch.ones_like(angle), angle)
    return torch.stack([numbers.real, numbers.imag], -1).flatten(-2)


def attention(h, state, name, heads, grid, rotary):
    width = h.shape[-1]
    q, k, v = linear(h, state, f"{name}.qkv").chunk(3, dim=-1)
    out = []
    for head in range(heads):
        mine = slice(head * width // heads, (head + 1) * width // heads)
        a, b = (turn(x[..., mine], grid) if rotary else x[..., mine] for x in (q, k))
        scores = torch.softmax(a @ b.transpose(1, 2) / math.sqrt(width / heads), dim=-1)
        out.append(scores @ v[..., mine])
    return linear(torch.cat(out, -1), state, f"{name}.proj")


def modulation(embedding, state, name, count):
    return linear(silu(embedding), state, f"{name}.layer").chunk(count, dim=-1)


def modulated(h, shift, scale):
    return layer_norm(h) * (1 + scale[:, None]) + shift[:, None]


def cut(x, patch):
    """Images -> tokens of C · patch² channels, row by row."""
    size = x.shape[-1]
    tokens = [
        x[:, :, i : i + patch, j : j + patch].flatten(1)
        for i in range(0, size, patch)
        for j in range(0, size, patch)
    ]
    return torch.stack(tokens, 1)


def paste(tokens, patch, channels, size):
    """Tokens of patch · patch · C channels -> images."""
    x = torch.zeros(len(tokens), channels, size, size)
    grid = size // patch
    for n in range(grid * grid):
        i, j = n // grid * patch, n % grid * patch
        x[:, :, i : i + patch, j : j + patch] = (
            tokens[:, n].reshape(-1, patch, patch, channels).permute(0, 3, 1, 2)
        )
    return x


def dit(state, x, t, *, patch, depth, heads, positions, label=None):
    grid = x.shape[-1] // patch
    frequencies = torch.tensor([math.exp(-math.log(10_000) * i / 127) for i in range(128)])
    phase = 999 * t[:, None] * frequencies
    embedding = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
    embedding = linear(silu(linear(embedding, state, "time.layers.0")), state, "time.layers.2")
    if label is not None:
        embedding = embedding + state["label.table.weight"][label]

    h = cut(x, patch) @ state["stem.proj.weight"].flatten(1).T + state["stem.proj.bias"]
    if positions == "learned":
        h = h + state["positions"]
    for n in range(depth):
        shift, scale, gate, shift2, scale2, gate2 = modulation(embedding, state, f"blocks.{n}.modulation", 6)
        attended = attention(
            modulated(h, shift, scale), state, f"blocks.{n}.attention", heads, grid, positions == "rotary"
        )
        h = h + gate[:, None] * attended
        hidden = gelu(linear(modulated(h, shift2, scale2), state, f"blocks.{n}.mlp.fc1"))
        h = h + gate2[:, None] * linear(hidden, state, f"blocks.{n}.mlp.fc2")
    h = linear(modulated(h, *modulation(embedding, state, "modulation", 2)), state, "head")
    return paste(h, patch, *x.shape[1:3])
