"""The DDPM++ U-Net, the network of Rectified Flow and SlimFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..types import Cond, FlowlitError
from .layers import Attention, LabelEmbedding, ResBlock, TimeEmbedding, conv3x3, norm


class Stage(nn.Module):
    """A residual block, with attention after it where asked."""

    def __init__(self, block: ResBlock, attention: Attention | None = None):
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class UNet(nn.Module):
    """Predict a velocity: x (B, C, R, R), t (B,) in [0, 1], cond {"label": (B,)} or {} -> (B, C, R, R).

    A fresh network returns almost 0. The defaults are SlimFlow's 15.7M student for CIFAR-10 (15,707,235 parameters).

    Args:
        resolution: R in pixels; divisible by 2 for each level after the first.
        in_channels: C.
        width: channels of the first level; the embedding has 4 · width.
        multipliers: one per level; channels are width · multiplier, resolution halves from level to level.
        blocks: residual blocks per level in the encoder (one more in the decoder).
        attention_resolutions: levels with attention, by their resolution; the bottleneck always has it.
        dropout: inside the residual blocks.
        num_classes: 0 for an unconditional network.
        label_dropout: probability of hiding the label in training, see ``LabelEmbedding``.

    Source: Song et al. 2021 (2011.13456) with Rectified Flow's settings; sizes in SlimFlow (2407.12718), table 1.
    """

    def __init__(
        self,
        resolution: int = 32,
        in_channels: int = 3,
        width: int = 96,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.15,
        num_classes: int = 0,
        label_dropout: float = 0.0,
    ):
        super().__init__()
        if resolution % 2 ** (len(multipliers) - 1):
            raise FlowlitError(
                f"UNet: resolution {resolution} cannot be halved {len(multipliers) - 1} times; give a multiple of "
                f"{2 ** (len(multipliers) - 1)}, or fewer multipliers"
            )
        if width % 4 or width < 8:
            raise FlowlitError(f"UNet: width {width} must be a multiple of 4, at least 8")
        self.spec = {
            "class_path": "flowlit.networks.UNet",
            "init_args": {
                "resolution": resolution,
                "in_channels": in_channels,
                "width": width,
                "multipliers": list(multipliers),
                "blocks": blocks,
                "attention_resolutions": list(attention_resolutions),
                "dropout": dropout,
                "num_classes": num_classes,
                "label_dropout": label_dropout,
            },
        }
        self.shape = (in_channels, resolution, resolution)
        self.num_classes, self.label_dropout = num_classes, label_dropout
        self.time = TimeEmbedding(width)
        self.label = LabelEmbedding(num_classes, 4 * width, label_dropout) if num_classes else None

        def stage(inputs: int, outputs: int, resample: int = 0, attention: bool = False) -> Stage:
            block = ResBlock(inputs, outputs, 4 * width, dropout, resample)
            return Stage(block, Attention(outputs) if attention else None)

        self.stem = conv3x3(in_channels, width)
        channels, skips = width, [width]
        self.encoder = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            attends = resolution >> level in attention_resolutions
            if level:
                self.encoder.append(stage(channels, channels, resample=-1))
                skips.append(channels)
            for _ in range(blocks):
                self.encoder.append(stage(channels, width * multiplier, attention=attends))
                channels = width * multiplier
                skips.append(channels)

        self.bottleneck = nn.ModuleList([stage(channels, channels, attention=True), stage(channels, channels)])

        self.decoder = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            attends = resolution >> level in attention_resolutions
            for i in range(blocks + 1):
                last = i == blocks
                self.decoder.append(stage(channels + skips.pop(), width * multiplier, attention=attends and last))
                channels = width * multiplier
            if level:
                self.decoder.append(stage(channels, channels, resample=+1))

        self.head_norm, self.head = norm(channels), conv3x3(channels, in_channels, scale=0)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        self._check(x, cond)
        embedding = self.time(t)
        if self.label is not None:
            embedding = embedding + self.label(cond.get("label"), len(x), x.device)
        embedding = F.silu(embedding)
        h = self.stem(x)
        skips = [h]
        for stage in self.encoder:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.bottleneck:
            h = stage(h, embedding)
        for stage in self.decoder:
            if not cast(Stage, stage).block.resample:
                h = torch.cat([h, skips.pop()], dim=1)
            h = stage(h, embedding)
        return self.head(F.silu(self.head_norm(h)))

    def _check(self, x: Tensor, cond: Cond) -> None:
        if tuple(x.shape[1:]) != self.shape:
            raise FlowlitError(f"UNet: built for images of shape {self.shape}, found {tuple(x.shape[1:])}")
        if self.label is None and "label" in cond:
            raise FlowlitError(
                "UNet: cond has labels, but the network is unconditional. Give it num_classes, or drop the labels: "
                "labels: false for the images, num_classes: 0 for the noise"
            )
