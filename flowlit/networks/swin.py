"""Attention inside windows, shifted from block to block. Liu et al. 2021 (2103.14030), as ResShift has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .norm import norm

APART = -100.0
"""Added to the logits of pixels that only the shift has brought into one window."""


class WindowAttention(nn.Module):
    """Self-attention inside squares of window × window pixels: (B, C, H, W) -> (B, C, H, W).

    A learned number of each head is added for each distance of two pixels. Sides are multiples of the window.

    Args:
        channels: C.
        heads: that share them.
        window: side of a square in pixels.
        shift: of the squares, in pixels, in both directions; those at the borders wrap around.
    """

    places: Tensor

    def __init__(self, channels: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads = heads
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Embedding((2 * window - 1) ** 2, heads)
        nn.init.trunc_normal_(self.bias.weight, std=0.02)
        self.register_buffer("places", relative_places(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H, W)."""
        rows = x.shape[2] // self.window
        x = x.roll((-self.shift, -self.shift), (2, 3)) if self.shift else x
        h = rearrange(x, "b c (y i) (x j) -> b (y x) (i j) c", i=self.window, j=self.window)
        q, k, v = rearrange(
            self.qkv(h), "b n p (three heads c) -> three b n heads p c", three=3, heads=self.heads
        )
        bias = rearrange(self.bias(self.places), "p q heads -> heads p q")
        if self.shift:
            sides = x.shape[2], x.shape[3]
            bias = bias + apart(sides, self.window, self.shift, x.device).to(bias.dtype)[:, None]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        h = self.out(rearrange(h, "b n heads p c -> b n p (heads c)"))
        h = rearrange(h, "b (y x) (i j) c -> b c (y i) (x j)", y=rows, i=self.window)
        return h.roll((self.shift, self.shift), (2, 3)) if self.shift else h


def relative_places(window: int) -> Tensor:
    """Return the row of the table of distances for each two pixels of a window, (P, P) int64, P = w²."""
    pixels = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    away = pixels[:, None] - pixels[None] + window - 1
    return away[..., 0] * (2 * window - 1) + away[..., 1]


def apart(sides: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """Return what is added to the logits in each window of a shifted image, (N, w², w²) float32.

    It is ``APART`` for pixels that are no neighbours before the shift. In the windows of the last row and of
    the last column rows and columns of pixels change places, as in ResShift's code, with which its networks
    were trained.

    Args:
        sides: H and W.
        window: side of a window in pixels.
        shift: in pixels.
        device: of the result.
    """
    rows, columns = (
        (place >= side - window).long() + (place >= side - shift).long()
        for side, place in ((side, torch.arange(side, device=device)) for side in sides)
    )
    regions = rearrange(3 * rows[:, None] + columns, "(y i) (x j) -> (y x) (j i)", i=window, j=window)
    return APART * (regions[:, :, None] != regions[:, None]).float()


class SwinBlock(nn.Module):
    """Attention in windows, then two layers for each pixel, both added to x: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, ratio: int, dropout: float):
        super().__init__()
        self.norm0 = norm(channels, 1e-5)
        self.attention = WindowAttention(channels, heads, window, shift)
        self.norm1 = norm(channels, 1e-5)
        self.wide = nn.Conv2d(channels, ratio * channels, 1)
        self.narrow = nn.Conv2d(ratio * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H, W)."""
        x = x + self.dropout(self.attention(self.norm0(x)))
        h = self.dropout(F.gelu(self.wide(self.norm1(x))))
        return x + self.dropout(self.narrow(h))


class Swin(nn.Module):
    """Blocks of attention in windows at a width of their own: (B, C, H, W) -> (B, C, H, W).

    Nothing passes around them. Every second block is shifted by half a window; where an image has one window
    alone, none is.

    Args:
        channels: C.
        width: of the blocks.
        heads: that share the width.
        resolution: side of the images that the network is made for, in pixels.
        window: side of a window in pixels, at most the resolution.
        depth: number of blocks.
        ratio: width of the inner layer of a block over its own.
        dropout: inside the blocks.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        heads: int,
        resolution: int,
        window: int,
        depth: int,
        ratio: int,
        dropout: float,
    ):
        super().__init__()
        self.window = min(window, resolution)
        half = window // 2 if resolution > window else 0
        self.embed = nn.Conv2d(channels, width, 1)
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, self.window, half * (place % 2), ratio, dropout) for place in range(depth)
        )
        self.unembed = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H, W)."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)
