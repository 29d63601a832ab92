"""Parts of latent diffusion's autoencoder with a codebook, under the names of its files.

Rombach et al. 2022 (2112.10752), Esser et al. 2021 (2012.09841).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import Norm

AT_ONCE = 1 << 14
"""Latents whose distances to all codes are computed together."""


def normalised(channels: int) -> Norm:
    """Return the norm of the autoencoder, in 32 groups."""
    return Norm(32, channels, eps=1e-6)


class Residual(nn.Module):
    """Residual block: (B, i, H, W) -> (B, o, H, W)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = normalised(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = normalised(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, i, H, W) -> (B, o, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class PixelAttention(nn.Module):
    """Attention of each pixel to all, added to x: (B, C, H, W) -> (B, C, H, W), one head."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = normalised(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Resized(nn.Module):
    """A convolution that halves, or doubles, H and W: (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, channels: int, doubles: bool):
        super().__init__()
        self.doubles = doubles
        self.conv = nn.Conv2d(channels, channels, 3, 1 if doubles else 2, padding=int(doubles))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H', W'); where it halves, zeros are at the right and below alone."""
        if self.doubles:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """Residual blocks of one width, then the change to the next size: (B, i, H, W) -> (B, o, H', W').

    Args:
        inputs: i.
        outputs: o.
        blocks: how many.
        change: name of the last part, "downsample", "upsample" or "" for none.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, change: str):
        super().__init__()
        widths = [inputs, *[outputs] * blocks]
        self.block = nn.Sequential(*(Residual(widths[i], widths[i + 1]) for i in range(blocks)))
        if change:
            self.add_module(change, Resized(outputs, change == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, i, H, W) -> (B, o, H', W')."""
        for part in self.children():
            x = part(x)
        return x


def middle(channels: int) -> nn.Sequential:
    """Return the blocks at the smallest size."""
    parts = {"block_1": Residual(channels, channels), "attn_1": PixelAttention(channels)}
    return nn.Sequential(OrderedDict(**parts, block_2=Residual(channels, channels)))


class Encoder(nn.Module):
    """Images to what latents are made of: (B, C, H, W) -> (B, z, H / f, W / f)."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, z: int):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down = nn.Sequential(
            *(
                Level(widths[max(i - 1, 0)], width, blocks, "downsample" if i < last else "")
                for i, width in enumerate(widths)
            )
        )
        self.mid = middle(widths[-1])
        self.norm_out = normalised(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], z, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, z, H / f, W / f)."""
        return self.conv_out(F.silu(self.norm_out(self.mid(self.down(self.conv_in(x))))))


class Decoder(nn.Module):
    """The way back: (B, z, h, w) -> (B, C, f h, f w)."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, z: int):
        super().__init__()
        self.conv_in = nn.Conv2d(z, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        inputs = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(inputs[i], width, blocks + 1, "upsample" if i else "") for i, width in enumerate(widths)
        )
        self.norm_out = normalised(widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Compute (B, z, h, w) -> (B, C, f h, f w)."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    """The nearest of the learned codes: (B, c, h, w) -> (B, c, h, w)."""

    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Compute (B, c, h, w) -> (B, c, h, w)."""
        codes = self.embedding.weight
        lengths = codes.square().sum(1)
        rows = z.movedim(1, -1).reshape(-1, z.shape[1])
        nearest = [(lengths - 2 * part @ codes.T).argmin(1) for part in rows.split(AT_ONCE)]
        return codes[torch.cat(nearest)].reshape(*z.shape[:1], *z.shape[2:], -1).movedim(-1, 1)
