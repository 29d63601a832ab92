"""ResShift's U-Net on a state dict with the names of its files, and its sampler, operation by operation.

Written from the facts of the sheet on super-resolution and from the order of its layers, without a look at
``flowlit/networks``. Slow on purpose: windows, heads and pixels are loops.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def silu(x):
    return x * torch.sigmoid(x)


def group_norm(x, state, name, eps=1e-5):
    grouped = x.reshape(len(x), 32, -1)
    mean = grouped.mean(2, keepdim=True)
    variance = (grouped - mean).square().mean(2, keepdim=True)
    x = ((grouped - mean) / torch.sqrt(variance + eps)).reshape(x.shape)
    return x * state[f"{name}.weight"][None, :, None, None] + state[f"{name}.bias"][None, :, None, None]


def conv(x, state, name, **options):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, **options)


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


class Net:
    """Sizes of a network, the names and shapes of its file, and its forward pass."""

    def __init__(self, resolution=16, width=128, mult=(1, 1), blocks=1, attends=(16, 8), window=4):
        self.resolution, self.width, self.mult, self.blocks = resolution, width, mult, blocks
        self.attends, self.window, self.swin, self.depth, self.head, self.ratio = (
            attends,
            window,
            128,
            2,
            32,
            2,
        )

    def plan(self):
        """(name, kind, inputs, outputs, resolution) in the order of their construction."""
        w, size = self.width, self.resolution
        channels = w * self.mult[0]
        rows = [("input_blocks.0.0", "conv", 6, channels, size)]
        skips, place = [channels], 1
        for level, mult in enumerate(self.mult):
            for block in range(self.blocks):
                rows.append((f"input_blocks.{place}.0", "res", channels, w * mult, size))
                channels = w * mult
                if size in self.attends and block == 0:
                    rows.append((f"input_blocks.{place}.1", "swin", channels, channels, size))
                skips.append(channels)
                place += 1
            if level < len(self.mult) - 1:
                rows.append((f"input_blocks.{place}.0", "down", channels, channels, size))
                skips.append(channels)
                place, size = place + 1, size // 2
        rows.append(("middle_block.0", "res", channels, channels, size))
        rows.append(("middle_block.1", "swin", channels, channels, size))
        rows.append(("middle_block.2", "res", channels, channels, size))
        place = 0
        for level in reversed(range(len(self.mult))):
            for block in range(self.blocks + 1):
                inputs, channels = channels + skips.pop(), w * self.mult[level]
                rows.append((f"output_blocks.{place}.0", "res", inputs, channels, size))
                inside = 1
                if size in self.attends and block == 0:
                    rows.append((f"output_blocks.{place}.1", "swin", channels, channels, size))
                    inside = 2
                if level and block == self.blocks:
                    rows.append((f"output_blocks.{place}.{inside}", "up", channels, channels, size))
                    size *= 2
                place += 1
        return rows, channels

    def shapes(self):
        e = 4 * self.width
        shapes = {"time_embed.0": (e, self.width), "time_embed.2": (e, e)}
        rows, last = self.plan()
        for name, kind, i, o, _ in rows:
            if kind == "conv":
                shapes[name] = (o, i, 3, 3)
            elif kind in ("down", "up"):
                shapes[f"{name}.{'op' if kind == 'down' else 'conv'}"] = (o, i, 3, 3)
            elif kind == "res":
                shapes |= {f"{name}.in_layers.0": (i,), f"{name}.in_layers.2": (o, i, 3, 3)}
                shapes |= {f"{name}.emb_layers.1": (2 * o, e), f"{name}.out_layers.0": (o,)}
                shapes[f"{name}.out_layers.3"] = (o, o, 3, 3)
                if i != o:
                    shapes[f"{name}.skip_connection"] = (o, i, 1, 1)
            else:
                s = self.swin
                shapes[f"{name}.patch_embed.proj"] = (s, i, 1, 1)
                shapes[f"{name}.patch_unembed.proj"] = (i, s, 1, 1)
                for b in range(self.depth):
                    inner = f"{name}.blocks.{b}"
                    shapes |= {f"{inner}.norm1": (s,), f"{inner}.norm2": (s,)}
                    shapes |= {f"{inner}.attn.qkv": (3 * s, s), f"{inner}.attn.proj": (s, s)}
                    shapes |= {f"{inner}.mlp.fc1": (self.ratio * s, s, 1, 1)}
                    shapes |= {f"{inner}.mlp.fc2": (s, self.ratio * s, 1, 1)}
        return shapes | {"out.0": (last,), "out.2": (3, last, 3, 3)}

    def state(self, seed=0):
        """Weights with the names of a published file, its buffers among them."""
        draw = torch.Generator().manual_seed(seed)
        state = {}
        for name, shape in self.shapes().items():
            noise = torch.randn(shape, generator=draw)
            fan = noise[0].numel() if len(shape) > 1 else 1
            state[f"{name}.weight"] = noise / math.sqrt(fan) if len(shape) > 1 else 1 + 0.2 * noise
            state[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=draw)
        for name, kind, _, _, size in self.plan()[0]:
            for b in range(self.depth if kind == "swin" else 0):
                window, shift = self.windows(size, b)
                inner = f"{name}.blocks.{b}"
                table = torch.randn((2 * window - 1) ** 2, self.swin // self.head, generator=draw)
                state[f"{inner}.attn.relative_position_bias_table"] = table
                state[f"{inner}.attn.relative_position_index"] = distances(window)
                if shift:
                    state[f"{inner}.attn_mask"] = mask(size, size, window, shift)
        return state

    def windows(self, size, block):
        """Side and shift of the windows of a block: one window alone is not shifted."""
        if size <= self.window:
            return size, 0
        return self.window, 0 if block % 2 == 0 else self.window // 2

    def forward(self, state, x, place, low):
        half = self.width // 2
        columns = [place * 10_000 ** (-i / half) for i in range(half)]
        waves = torch.stack([torch.cos(c) for c in columns] + [torch.sin(c) for c in columns], 1)
        emb = linear(silu(linear(waves, state, "time_embed.0")), state, "time_embed.2")
        h, left = torch.cat([x, low], 1), []
        for name, kind, _, _, size in self.plan()[0]:
            part, _, inside = [*name.split("."), ""][:3]
            if part == "output_blocks" and inside == "0":
                h = torch.cat([h, left.pop()], 1)
            h = self.layer(state, name, kind, h, emb, size)
            if part == "input_blocks":
                if inside == "0":
                    left.append(h)
                else:  # attention is a part of the block before it
                    left[-1] = h
        return conv(silu(group_norm(h, state, "out.0")), state, "out.2")

    def layer(self, state, name, kind, h, emb, size):
        if kind == "conv":
            return conv(h, state, name)
        if kind == "down":
            return conv(h, state, f"{name}.op", stride=2)
        if kind == "up":
            doubled = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return conv(doubled, state, f"{name}.conv")
        if kind == "swin":
            return self.attention(state, name, h, size)
        inner = conv(silu(group_norm(h, state, f"{name}.in_layers.0")), state, f"{name}.in_layers.2")
        scale, shift = linear(silu(emb), state, f"{name}.emb_layers.1")[:, :, None, None].chunk(2, 1)
        inner = group_norm(inner, state, f"{name}.out_layers.0") * (1 + scale) + shift
        inner = conv(silu(inner), state, f"{name}.out_layers.3")
        skip = f"{name}.skip_connection"
        return inner + (conv(h, state, skip) if f"{skip}.weight" in state else h)

    def attention(self, state, name, h, size):
        x = conv(h, state, f"{name}.patch_embed.proj")
        for b in range(self.depth):
            window, shift = self.windows(size, b)
            inner = f"{name}.blocks.{b}"
            moved = torch.roll(group_norm(x, state, f"{inner}.norm1"), (-shift, -shift), (2, 3))
            seen = self.in_windows(state, f"{inner}.attn", moved, window, shift)
            x = x + torch.roll(seen, (shift, shift), (2, 3))
            wide = F.gelu(conv(group_norm(x, state, f"{inner}.norm2"), state, f"{inner}.mlp.fc1"))
            x = x + conv(wide, state, f"{inner}.mlp.fc2")
        return conv(x, state, f"{name}.patch_unembed.proj")

    def in_windows(self, state, name, x, window, shift):
        result = torch.empty_like(x)
        height, width = x.shape[2:]
        masks = mask(height, width, window, shift) if shift else None
        table = state[f"{name}.relative_position_bias_table"]
        count = 0
        for top in range(0, height, window):
            for left in range(0, width, window):
                square = x[:, :, top : top + window, left : left + window]
                tokens = square.flatten(2).transpose(1, 2)
                q, k, v = linear(tokens, state, f"{name}.qkv").chunk(3, 2)
                heads = []
                for n in range(self.swin // self.head):
                    part = slice(n * self.head, (n + 1) * self.head)
                    logits = q[:, :, part] @ k[:, :, part].transpose(1, 2) / math.sqrt(self.head)
                    logits = logits + table[distances(window), n]
                    if masks is not None:
                        logits = logits + masks[count]
                    heads.append(torch.softmax(logits, 2) @ v[:, :, part])
                seen = linear(torch.cat(heads, 2), state, f"{name}.proj")
                result[:, :, top : top + window, left : left + window] = seen.transpose(1, 2).reshape(
                    square.shape
                )
                count += 1
        return result


def distances(window):
    """Row of the table for each two pixels of a window, counted row by row."""
    rows = []
    for i in range(window):
        for j in range(window):
            row = [
                (i - a + window - 1) * (2 * window - 1) + j - b + window - 1
                for a in range(window)
                for b in range(window)
            ]
            rows.append(row)
    return torch.tensor(rows)


def mask(height, width, window, shift):
    """-100 for pixels that are not from one region; regions of a window are counted column by column."""

    def region(place, side):
        return 0 if place < side - window else 1 if place < side - shift else 2

    masks = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            order = [
                (region(top + row, height), region(left + column, width))
                for column in range(window)
                for row in range(window)
            ]
            masks.append([[0.0 if a == b else -100.0 for b in order] for a in order])
    return torch.tensor(masks)


def sample(predict, steps, kappa, least, center, noises, power=0.3, last=0.99):
    """The chain from x_T to x, as the paper draws it: ``predict(state, k)`` has x; noises is (T, …)."""
    first = min(least / kappa, least)
    eta = [(first * (last / first) ** ((k / (steps - 1)) ** power)) ** 2 for k in range(steps)]
    x = center + kappa * math.sqrt(eta[-1]) * noises[0]
    for k in reversed(range(steps)):
        clean = predict(x / math.sqrt(1 + kappa**2 * eta[k]), k)
        before = eta[k - 1] if k else 0.0
        alpha = eta[k] - before
        mean = before / eta[k] * x + alpha / eta[k] * clean
        spread = math.sqrt(kappa**2 * before / eta[k] * alpha)
        x = mean + spread * noises[steps - k] if k else mean
    return x
