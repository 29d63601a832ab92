"""The U shape that DDPM++ and ADM share: an encoder, a bottleneck, and a decoder that takes up what the
encoder left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..types import Cond
from .activation_checkpointing import recomputed
from .layers import LabelEmbedding, TimeEmbedding


class Stage(nn.Module):
    """A residual block, with attention after it where asked. ``resample`` is -1, 0 or 1: halve, keep or
    double.
    """

    def __init__(self, block: nn.Module, attention: nn.Module | None = None, resample: int = 0):
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, i, H, W), (B, e) -> (B, o, H', W'); what the encoder left, if given, is joined to the channels
        of x.
        """
        return recomputed(self, self._compute, x, embedding, skip)

    def _compute(self, x: Tensor, embedding: Tensor, skip: Tensor | None) -> Tensor:
        x = x if skip is None else torch.cat([x, skip], dim=1)
        return self.attention(self.block(x, embedding))


MakeStage = Callable[[int, int, int, bool], Stage]
"""(inputs, outputs, resample, attention) -> Stage."""


def check_size(name: str, resolution: int, width: int, multipliers: Sequence[int], blocks: int) -> None:
    """Refuse sizes that cannot be halved, or not be grouped.

    Args:
        name: of the network, for messages.
        resolution: in pixels.
        width: base of the channels.
        multipliers: one for each level.
        blocks: of each level in the encoder.

    Raises:
        FlowlitError: saying which sizes can.
    """
    levels = len(multipliers)
    if not levels or min(multipliers) < 1 or blocks < 1:
        raise FlowlitError(
            f"{name}: expected multipliers and blocks of at least 1, found {list(multipliers)} and {blocks}"
        )
    if resolution % 2 ** (levels - 1):
        raise FlowlitError(
            f"{name}: resolution {resolution} cannot be halved {levels - 1} times; give a multiple of "
            f"{2 ** (levels - 1)}, or fewer multipliers"
        )
    if width % 4 or width < 8:
        raise FlowlitError(f"{name}: width {width} must be a multiple of 4, at least 8")


def check_input(
    name: str, shape: Sequence[int], reads: frozenset[str], x: Tensor, t: Tensor, cond: Cond
) -> None:
    """Refuse what a network was not built for, and conditions that it would not look at.

    Args:
        name: of the network, for messages.
        shape: (C, R, R) of its images.
        reads: names of the conditions that it reads.
        x: images, (B, C, R, R).
        t: times, (B,).
        cond: conditions by name, each (B, …).

    Raises:
        FlowlitError: saying what was found, and what was expected.
    """
    if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
        shown = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
        raise FlowlitError(f"{name}: expected times (B,), one for each image of {x.shape[0]}, found {shown}")
    unknown = sorted(set(cond) - reads - {"label"})
    if unknown:
        names = " and ".join(map(repr, sorted(reads | {"label"})))
        raise FlowlitError(
            f"{name}: cond has {', '.join(unknown)}, but this network looks at nothing but {names}"
        )
    if tuple(x.shape[1:]) != tuple(shape):
        raise FlowlitError(f"{name}: built for images of shape {tuple(shape)}, found {tuple(x.shape[1:])}")
    if "label" in cond and "label" not in reads:
        raise FlowlitError(
            f"{name}: cond has labels, but the network is unconditional. Give it num_classes, or drop the "
            "labels: "
            "labels: false for the images, num_classes: 0 for the noise"
        )


class UNetBase(nn.Module):
    """What ``UNet`` and ``ADM`` have in common; they say how stages, embedding and ends are made.

    Levels halve the resolution; ``blocks`` residual blocks a level in the encoder, one more in the decoder.
    """

    shape: tuple[int, int, int]
    time: TimeEmbedding
    label: LabelEmbedding | None
    early_label: bool = False
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
        last: bool,
    ) -> int:
        """Make encoder, bottleneck and decoder; return the channels that leave the decoder.

        Args:
            stem: channels that enter the encoder.
            widths: channels of each level.
            blocks: of each level in the encoder.
            attends: which levels have attention.
            stage: makes one.
            last: attention in the decoder only after the last block of a level, not after each.
        """
        channels = stem
        skips = [stem]
        self.encoder = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(stage(channels, channels, -1, False))
                skips.append(channels)
            for _ in range(blocks):
                self.encoder.append(stage(channels, width, 0, attends[level]))
                channels = width
                skips.append(channels)
        self.bottleneck = nn.ModuleList(
            [stage(channels, channels, 0, True), stage(channels, channels, 0, False)]
        )
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                attention = attends[level] and (i == blocks or not last)
                self.decoder.append(stage(channels + skips.pop(), width, 0, attention))
                channels = width
            if level:
                self.decoder.append(stage(channels, channels, +1, False))
        return channels

    def named_stages(self) -> Iterator[tuple[str, Stage]]:
        """All stages with their names, in the order in which they are run."""
        for part in ("encoder", "bottleneck", "decoder"):
            for i, stage in enumerate(getattr(self, part)):
                yield f"{part}.{i}", cast(Stage, stage)

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions that the network reads."""
        return frozenset() if self.label is None else frozenset({"label"})

    def checkpointable(self) -> list[nn.Module]:
        """Return the stages, which can be computed again for the gradient."""
        return [stage for _, stage in self.named_stages()]

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        check_input(type(self).__name__, self.shape, self.reads, x, t, cond)
        label = None if self.label is None else self.label(cond.get("label"), x.shape[0], x.device)
        embedding = self.time(t, label if self.early_label else None)
        if label is not None and not self.early_label:
            embedding = embedding + label
        return self._run(x, F.silu(embedding))

    def _run(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.stem(x)
        skips = [h]
        for stage in self.encoder:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.bottleneck:
            h = stage(h, embedding)
        for stage in self.decoder:
            h = stage(h, embedding, None if stage.resample else skips.pop())
        return self.head(F.silu(self.head_norm(h)))
