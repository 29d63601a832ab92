"""Parts of networks: embeddings of times and classes, attention, and DDPM++'s residual block.

Song et al. 2021 (2011.13456), appendix H.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import FlowlitError
from .norm import norm

SQRT_HALF = math.sqrt(0.5)


def initialise(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Draw weights uniformly, scaled by the mean of fan-in and fan-out; biases are 0, scale 0 means 1e-10."""
    receptive = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
    fan = receptive * (layer.weight.shape[0] + layer.weight.shape[1]) / 2
    bound = math.sqrt(3 * (scale or 1e-10) / fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def full_precision(device: torch.device) -> AbstractContextManager:
    """Switch autocast off for what must stay accurate."""
    # PyTorch 2.11 cannot compile the question, and devices that it compiles for have autocast
    has_autocast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()


def conv3x3(inputs: int, outputs: int, scale: float = 1.0) -> nn.Module:
    return initialise(nn.Conv2d(inputs, outputs, 3, padding=1), scale)


def frequencies(num: int, endpoint: bool) -> Tensor:
    """Return 10,000^(-i / (num - 1)), or 10,000^(-i / num) without endpoint, (num,) float32.

    Rounded as DDPM++ and ADM round them: at 999 t, the last bit of a frequency is the fifth digit of an
    output.
    """
    i = torch.arange(num, dtype=torch.float32)
    return torch.exp(i * -(math.log(10_000) / (num - 1))) if endpoint else (1 / 10_000) ** (i / num)


class TimeEmbedding(nn.Module):
    """Sines and cosines of scale · t, then two linear layers: (B,) -> (B, dim).

    Computed in float32 at least, also under autocast.

    Args:
        width: number of sines and cosines, half of each.
        dim: of the embedding; None is 4 · width.
        scale: 999 for times in [0, 1]; 1 for other inputs, such as EDM's ln σ / 4, and where derivatives by
            the time must be smooth.
        endpoint: frequencies run from 1 to 1 / 10,000; without it they stop one short of that.
    """

    frequencies: Tensor

    def __init__(self, width: int, dim: int | None = None, scale: float = 999.0, endpoint: bool = True):
        super().__init__()
        self.scale = scale
        self.endpoint = endpoint
        dim = dim or 4 * width
        self.register_buffer("frequencies", frequencies(width // 2, endpoint), persistent=False)
        self.layers = nn.Sequential(
            initialise(nn.Linear(width, dim)), nn.SiLU(), initialise(nn.Linear(dim, dim))
        )

    def _apply(self, fn: Any, recurse: bool = True) -> TimeEmbedding:
        """Follow to another device, but keep float32 where a network is turned into half precision."""
        super()._apply(fn, recurse)
        self.frequencies = frequencies(len(self.frequencies), self.endpoint).to(self.frequencies.device)
        return self

    def forward(self, t: Tensor, early: Tensor | None = None) -> Tensor:
        """Embed times (B,); ``early`` (B, width) is added to the sines."""
        weights: Any = self.layers[0].weight.dtype
        kind = torch.promote_types(weights, torch.float32)
        with full_precision(t.device):
            scaled = (self.scale * t.to(torch.promote_types(t.dtype, kind))).to(kind)
            phase = scaled[:, None] * self.frequencies.to(kind)
            sines = torch.cat([phase.sin(), phase.cos()], dim=1)
            return self.layers((sines if early is None else sines + early.to(kind)).to(weights))


class SecondTime(TimeEmbedding):
    """Embedding of the second time r of a flow map, in [0, 1]: (B,) -> (B, dim), zeros when fresh.

    Its scale is 1, so that derivatives by r are as smooth as those by x; first times may be scaled by 999.
    """

    def __init__(self, width: int, dim: int):
        super().__init__(width, dim, scale=1.0)
        nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]


class LabelEmbedding(nn.Module):
    """One vector per class, added to the time embedding: (B,) int64 -> (B, dim).

    With ``dropout`` > 0 a further vector stands for "no label": each label is replaced by it with that
    probability during training, and it is used when ``cond`` has no label. 0.1 is usual for classifier-free
    guidance.
    """

    def __init__(self, num_classes: int, dim: int, dropout: float = 0.0):
        super().__init__()
        if num_classes < 1 or not 0 <= dropout <= 1:
            raise FlowlitError(
                f"expected num_classes >= 0 and label_dropout in [0, 1], found {num_classes} and {dropout}"
            )
        self.num_classes = num_classes
        self.dropout = dropout
        self.table = nn.Embedding(num_classes + (dropout > 0), dim)

    def forward(self, label: Tensor | None, batch: int, device: torch.device) -> Tensor:
        """Return vectors (batch, dim) of labels (batch,), or of "no label" where there are none."""
        if label is None:
            if not self.dropout:
                raise FlowlitError(
                    f"the network is conditional on {self.num_classes} classes, but cond has no 'label'. "
                    "Give labels (data.noise.num_classes), or train with label_dropout > 0 to allow none "
                    "(EDM's networks, which take zeros for none, are read with network=… of label_dropout > "
                    "0)"
                )
            label = torch.full((batch,), self.num_classes, device=device)
        else:
            self._check(label, batch)
        if self.training and self.dropout:
            dropped = torch.rand(batch, device=device) < self.dropout
            label = torch.where(dropped, self.num_classes, label)
        return self.table(label.long())

    def _check(self, label: Tensor, batch: int) -> None:
        """Check values where that needs no synchronisation, and nothing in a compiled graph."""
        if torch.compiler.is_compiling():
            return
        if tuple(label.shape) != (batch,) or label.is_floating_point() or label.is_complex():
            raise FlowlitError(
                f"labels are {label.dtype} {tuple(label.shape)}; expected whole numbers ({batch},), one "
                "class an image (one-hot: "
                "label.argmax(1))"
            )
        if label.device.type != "cpu" or not batch:
            return
        low = int(label.min())
        high = int(label.max())
        if not 0 <= low <= high < self.num_classes + (self.dropout > 0):
            raise FlowlitError(
                f"labels run from {low} to {high}, but the network knows {self.num_classes} classes"
            )


def resampled(x: Tensor, how: int) -> Tensor:
    """Double (+1) H and W of (B, C, H, W) by repeating pixels, halve (-1) by averaging, or keep (0) them."""
    if how > 0:
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.avg_pool2d(x, 2) if how < 0 else x


class ResBlock(nn.Module):
    """Residual block of BigGAN shape: (B, i, H, W), (B, e) -> (B, o, H', W'). The sum is divided by √2.

    resample -1 halves, +1 doubles H and W. ``embedding`` comes after its SiLU, once for all blocks.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, resample: int = 0):
        super().__init__()
        self.resample = resample
        self.norm0 = norm(inputs)
        self.conv0 = conv3x3(inputs, outputs)
        self.affine: nn.Module | None = initialise(nn.Linear(embedding, outputs))
        self.norm1 = norm(outputs)
        self.conv1 = conv3x3(outputs, outputs, scale=0)
        self.dropout = nn.Dropout(dropout)
        changes = inputs != outputs or resample != 0
        self.skip = initialise(nn.Conv2d(inputs, outputs, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Compute (B, i, H, W), (B, e) -> (B, o, H', W')."""
        h = resampled(F.silu(self.norm0(x)), self.resample)
        h = self.conv0(h)
        if self.affine is not None:  # None where it is a part of a bias, see ``folding``
            h = h + self.affine(embedding)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return (self.skip(resampled(x, self.resample)) + h) * SQRT_HALF


class Attention(nn.Module):
    """Self-attention over all positions: (B, C, H, W) -> (B, C, H, W), one head. The sum is divided by √2."""

    heads = 1
    scale = SQRT_HALF

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        for weight in self.qkv.weight.data.chunk(3):
            nn.init.uniform_(weight, -math.sqrt(0.3 / channels), math.sqrt(0.3 / channels))
        nn.init.zeros_(self.qkv.bias)
        self.out = initialise(nn.Linear(channels, channels), scale=0)

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H, W)."""
        h = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = rearrange(
            self.qkv(h), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads
        )
        h = self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))
        return (x + rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])) * self.scale


def time_scale_of(network: nn.Module | None) -> float:
    """Return what a network multiplies its times by; 1 where it does not say, as inside a wrapper."""
    return getattr(getattr(network, "time", None), "scale", 1)
