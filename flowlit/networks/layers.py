"""The parts of the DDPM++ network: time embedding, residual block, attention. Song et al. 2021 (2011.13456), appendix H."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..types import FlowlitError

SQRT_HALF = math.sqrt(0.5)


def initialise(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Variance scaling by the mean of fan-in and fan-out, uniform; biases 0; scale 0 stands for 1e-10."""
    receptive = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
    fan = receptive * (layer.weight.shape[0] + layer.weight.shape[1]) / 2
    bound = math.sqrt(3 * (scale or 1e-10) / fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv3x3(inputs: int, outputs: int, scale: float = 1.0) -> nn.Module:
    return initialise(nn.Conv2d(inputs, outputs, 3, padding=1), scale)


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of min(channels / 4, 32) groups, or the next smaller number that divides the channels."""
    most = max(1, min(channels // 4, 32))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels, eps=1e-6)


class TimeEmbedding(nn.Module):
    """Sines and cosines of 999 t, then two linear layers: (B,) -> (B, 4 width). Computed in float32."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            initialise(nn.Linear(width, 4 * width)), nn.SiLU(), initialise(nn.Linear(4 * width, 4 * width))
        )

    def forward(self, t: Tensor) -> Tensor:
        phase = 999 * t.float()[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))


class LabelEmbedding(nn.Module):
    """One vector per class, added to the time embedding: (B,) int64 -> (B, dim).

    With ``dropout`` > 0 a further vector stands for "no label": each label is replaced by it with that probability during
    training, and it is used when ``cond`` has no label (for classifier-free guidance).
    """

    def __init__(self, num_classes: int, dim: int, dropout: float = 0.0):
        super().__init__()
        self.num_classes, self.dropout = num_classes, dropout
        self.table = nn.Embedding(num_classes + (dropout > 0), dim)

    def forward(self, label: Tensor | None, batch: int, device: torch.device) -> Tensor:
        if label is None:
            if not self.dropout:
                raise FlowlitError(
                    f"the network is conditional on {self.num_classes} classes, but cond has no 'label'. "
                    "Give labels (data.noise.num_classes), or train with label_dropout > 0 to allow none"
                )
            label = torch.full((batch,), self.num_classes, device=device)
        elif (
            label.device.type == "cpu"
            and len(label)
            and not 0 <= int(label.min()) <= int(label.max()) < self.table.num_embeddings
        ):
            raise FlowlitError(
                f"labels run from {int(label.min())} to {int(label.max())}, but the network knows {self.num_classes} classes"
            )
        if self.training and self.dropout:
            dropped = torch.rand(batch, device=device) < self.dropout
            label = torch.where(dropped, self.num_classes, label)
        return self.table(label)


class ResBlock(nn.Module):
    """Residual block of BigGAN shape: (B, i, H, W), (B, e) -> (B, o, H', W'); resample -1 halves, +1 doubles H and W.

    ``embedding`` comes after its SiLU, once for all blocks. The sum is divided by √2.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, resample: int = 0):
        super().__init__()
        self.resample = resample
        self.norm0, self.conv0 = norm(inputs), conv3x3(inputs, outputs)
        self.affine = initialise(nn.Linear(embedding, outputs))
        self.norm1, self.conv1 = norm(outputs), conv3x3(outputs, outputs, scale=0)
        self.dropout = nn.Dropout(dropout)
        changes = inputs != outputs or resample != 0
        self.skip = initialise(nn.Conv2d(inputs, outputs, 1)) if changes else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self._resample(F.silu(self.norm0(x)))
        h = self.conv0(h) + self.affine(embedding)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return (self.skip(self._resample(x)) + h) * SQRT_HALF

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample > 0:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample < 0 else x


class Attention(nn.Module):
    """Self-attention of one head over all positions: (B, C, H, W) -> (B, C, H, W). The sum is divided by √2."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        for weight in self.qkv.weight.data.chunk(3):
            nn.init.uniform_(weight, -math.sqrt(0.3 / channels), math.sqrt(0.3 / channels))
        nn.init.zeros_(self.qkv.bias)
        self.out = initialise(nn.Linear(channels, channels), scale=0)

    def forward(self, x: Tensor) -> Tensor:
        h = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        h = self.out(F.scaled_dot_product_attention(q, k, v))
        return (x + rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[2])) * SQRT_HALF
