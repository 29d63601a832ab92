"""The U shape that DDPM++ and ADM share: an encoder, a bottleneck, and a decoder with skip connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..types import Cond
from .activation_checkpointing import recomputed
from .base import ConditionalNetwork


class Stage(nn.Module):
    """A residual block, then attention if given. ``resample`` is -1, 0 or 1: halve, keep or double."""

    def __init__(self, block: nn.Module, attention: nn.Module | None = None, resample: int = 0):
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Compute (B, i, H, W), (B, e) -> (B, o, H', W').

        ``skip`` (B, s, H, W), which the encoder left, is joined to the channels of x.
        """
        return recomputed(self, self._compute, x, embedding, skip)

    def _compute(self, x: Tensor, embedding: Tensor, skip: Tensor | None) -> Tensor:
        x = x if skip is None else torch.cat([x, skip], dim=1)
        return self.attention(self.block(x, embedding))


MakeStage = Callable[[int, int, int, bool], Stage]
"""(inputs, outputs, resample, attention) -> Stage."""

Where = Literal["each", "last", "first"]


def check_size(name: str, resolution: int, width: int, multipliers: Sequence[int]) -> None:
    """Refuse sizes that cannot be halved, or not be grouped.

    Args:
        name: of the network, for messages.
        resolution: in pixels.
        width: base of the channels.
        multipliers: one for each level.

    Raises:
        FlowlitError: saying which sizes can.
    """
    levels = len(multipliers)
    if not levels:
        raise FlowlitError(f"{name}: multipliers is empty; expected one for each level")
    if resolution % 2 ** (levels - 1):
        raise FlowlitError(
            f"{name}: resolution {resolution} cannot be halved {levels - 1} times; give a multiple of "
            f"{2 ** (levels - 1)}, or fewer multipliers"
        )
    if width % 4 or width < 8:
        raise FlowlitError(f"{name}: width {width} must be a multiple of 4, at least 8")


class UNetBase(ConditionalNetwork):
    """The common part of ``UNet``, ``ADM`` and ``SwinUNet``, which make their stages, embeddings and ends.

    Levels halve the resolution; ``blocks`` residual blocks a level in the encoder, one more in the decoder.
    """

    stem: nn.Module
    head_norm: nn.Module
    head: nn.Module

    def assemble(
        self,
        stem: int,
        widths: Sequence[int],
        blocks: int,
        attends: Sequence[bool],
        stage: MakeStage,
        where: Where,
    ) -> int:
        """Build encoder, bottleneck and decoder; return the channels that leave the decoder.

        Args:
            stem: channels that enter the encoder.
            widths: channels of each level.
            blocks: of each level in the encoder.
            attends: which levels have attention.
            stage: builds one.
            where: attention after each block of such a level; after each in the encoder and the last in the
                decoder; or after the first in both.
        """
        channels = stem
        skips = [stem]
        self.encoder = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(stage(channels, channels, -1, False))
                skips.append(channels)
            for i in range(blocks):
                attention = attends[level] and (i == 0 or where != "first")
                self.encoder.append(stage(channels, width, 0, attention))
                channels = width
                skips.append(channels)
        self.bottleneck = nn.ModuleList(
            [stage(channels, channels, 0, True), stage(channels, channels, 0, False)]
        )
        self.decoder = nn.ModuleList()
        only = {"each": range(blocks + 1), "last": (blocks,), "first": (0,)}[where]
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                attention = attends[level] and i in only
                self.decoder.append(stage(channels + skips.pop(), width, 0, attention))
                channels = width
            if level:
                self.decoder.append(stage(channels, channels, +1, False))
        return channels

    @property
    def stride(self) -> int:
        """Pixels of the input for one of the bottleneck, along a side."""
        return 2 ** sum(stage.resample == -1 for _, stage in self.named_stages())

    def named_stages(self) -> Iterator[tuple[str, Stage]]:
        """Yield all stages with their names, in the order in which they are run."""
        for part in ("encoder", "bottleneck", "decoder"):
            for i, stage in enumerate(getattr(self, part)):
                yield f"{part}.{i}", cast(Stage, stage)

    def checkpointable(self) -> list[nn.Module]:
        """Return the stages, which can be computed again for the gradient."""
        return [stage for _, stage in self.named_stages()]

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), under conditions (B, …)."""
        return self._run(x, *self.embed(x, t, cond))

    def _run(self, x: Tensor, embedding: Tensor, decoding: Tensor) -> Tensor:
        h = self.stem(x)
        skips = [h]
        for stage in self.encoder:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.bottleneck:
            h = stage(h, embedding)
        for stage in self.decoder:
            h = stage(h, decoding, None if stage.resample else skips.pop())
        return self.head(F.silu(self.head_norm(h)))
