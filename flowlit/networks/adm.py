"""The ADM U-Net of Dhariwal and Nichol 2021 (2105.05233), in the sizes of EDM and SlimFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability
from .base import Second
from .checkpoints.spec import own_spec
from .layers import Attention, LabelEmbedding, TimeEmbedding, resampled
from .norm import norm
from .unet_base import Stage, UNetBase, check_size

HEAD = 64
"""Channels of an attention head."""


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zero(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0; return it."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class ADMBlock(nn.Module):
    """Residual block whose embedding scales and shifts: (B, i, H, W), (B, e) -> (B, o, H', W').

    resample -1 halves, +1 doubles H and W; only a change of channels needs a projection of x. Layers start as
    PyTorch's do, U(±1 / √fan-in) for weights and biases, the last one at 0.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, resample: int = 0):
        super().__init__()
        self.resample = resample
        self.norm0 = norm(inputs, 1e-5)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine: nn.Module | None = nn.Linear(embedding, 2 * outputs)
        self.norm1 = norm(outputs, 1e-5)
        self.conv1 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Compute (B, i, H, W), (B, e) -> (B, o, H', W')."""
        h = self.conv0(resampled(F.silu(self.norm0(x)), self.resample))
        h = self.norm1(h)
        if self.affine is not None:  # None where it is a part of the norm, see ``folding``
            scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip(resampled(x, self.resample)) + self.conv1(self.dropout(F.silu(h)))


class ADMAttention(Attention):
    """Self-attention with heads of about 64 channels, added to x as it is."""

    scale = 1.0

    def __init__(self, channels: int):
        nn.Module.__init__(self)
        self.heads = channels // HEAD
        if channels % self.heads:
            raise FlowlitError(
                f"ADM: {channels} channels cannot be shared among {self.heads} heads; give a width like 64, "
                "128 or 192"
            )
        self.norm = norm(channels, 1e-5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))


class ADM(UNetBase):
    """ADM of Dhariwal and Nichol 2021, a U-Net for images with classes: predict a velocity, x (B, C, R, R),
    t (B,) in [0, 1], cond -> (B, C, R, R).

    Conditions: {"label": (B,)} int64 with classes, {"r": (B,)} in [0, 1] with a second time, or {}.

    A fresh network returns 0. The defaults are SlimFlow's student for ImageNet at 64 pixels (80,685,315
    parameters).

    Args:
        resolution: R in pixels; divisible by 2 for each level after the first.
        in_channels: C.
        width: base of the channels; the embedding has 4 · width.
        multipliers: one per level; channels are width · multiplier, resolution halves from level to level.
        blocks: residual blocks per level in the encoder (one more in the decoder).
        attention_resolutions: levels with attention, by their resolution; the bottleneck always has it.
            Levels narrower than one head, 64 channels, have none.
        dropout: inside the residual blocks.
        num_classes: 0 for an unconditional network.
        label_dropout: probability of hiding the label in training, see ``LabelEmbedding``.
        time_scale: what times are multiplied by before their sines are taken; 1 inside ``EDM``, which gives
            ln σ / 4.
        second_time: read ``cond["r"]``, as a flow map u(x, t, r) does; see ``ConditionalNetwork``.

    Source: Dhariwal and Nichol 2021 (2105.05233), as Karras et al. 2022 (2206.00364) and SlimFlow
        (2407.12718) use it.
    """

    def __init__(
        self,
        resolution: PositiveInt = 64,
        in_channels: PositiveInt = 3,
        width: PositiveInt = 128,
        multipliers: Sequence[PositiveInt] = (1, 2, 2, 4),
        blocks: PositiveInt = 2,
        attention_resolutions: Sequence[PositiveInt] = (32, 16),
        dropout: Probability = 0.13,
        num_classes: NonNegativeInt = 1000,
        label_dropout: Probability = 0.0,
        time_scale: PositiveFloat = 999.0,
        second_time: Second = False,
    ):
        described = own_spec("ADM", locals())
        super().__init__()
        self.spec = described
        check_size("ADM", resolution, width, multipliers)
        self.shape = (in_channels, resolution, resolution)
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.time = TimeEmbedding(width, scale=time_scale, endpoint=False)
        for layer in self.time.layers[::2]:
            layer.reset_parameters()  # type: ignore[operator]
        self.label = LabelEmbedding(num_classes, 4 * width, label_dropout) if num_classes else None

        def stage(inputs: int, outputs: int, resample: int, attention: bool) -> Stage:
            block = ADMBlock(inputs, outputs, 4 * width, dropout, resample)
            return Stage(block, ADMAttention(outputs) if attention and outputs >= HEAD else None, resample)

        stem = width * multipliers[0]
        self.stem = nn.Conv2d(in_channels, stem, 3, padding=1)
        attends = [resolution >> level in attention_resolutions for level in range(len(multipliers))]
        channels = self.assemble(stem, [width * m for m in multipliers], blocks, attends, stage, "each")
        self.head_norm = norm(channels, 1e-5)
        self.head = zero(nn.Conv2d(channels, in_channels, 3, padding=1))
        self.add_second_time(width, 4 * width, second_time)
