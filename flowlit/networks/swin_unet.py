"""The U-Net of ResShift, with attention in windows. Yue et al. 2023 (2307.12348)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability
from ..types import Cond
from .adm import ADMBlock
from .checkpoints.spec import own_spec
from .layers import TimeEmbedding
from .norm import norm
from .swin import Swin
from .unet_base import Stage, UNetBase, check_size

GROUP = 32
"""Channels are normalised in so many groups, whatever their number."""


class Resampling(nn.Module):
    """A convolution that halves (-1) or doubles (+1) H and W: (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, channels: int, resample: int):
        super().__init__()
        self.resample = resample
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if resample < 0 else 1, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C, H', W'); ``embedding`` (B, e) is not used."""
        return self.conv(x if self.resample < 0 else F.interpolate(x, scale_factor=2, mode="nearest"))


class SwinUNet(UNetBase):
    """ResShift's U-Net: predict x (B, C, R, R) from the state of a chain (B, C, R, R) and its place t (B,).

    It is a network for the inside of ``flowlit.networks.ResShiftVelocity``, which makes a velocity of it. The
    place is the number of a step, from 0. Conditions: {"lr": (B, 3, R, R)}, the low-resolution image in
    [-1, 1], which has as many pixels as x: where x are latents of an image, a side is that of the image over
    the factor of the autoencoder. "image", around which the chain runs, may be there, and is not looked at.

    The defaults are those of its published networks for photographs (118,593,583 parameters).

    Args:
        resolution: R; at each level one window, or a multiple of it.
        in_channels: C.
        width: base of the channels, which are multiples of 32, and 128 at least; the embedding has 4 · width.
        multipliers: one per level; channels are width · multiplier, resolution halves from level to level.
        blocks: residual blocks per level in the encoder (one more in the decoder); the first has attention.
        attention_resolutions: levels with attention, by their resolution; the bottleneck always has it.
        dropout: inside the blocks.
        window: side of a window of attention.
        swin_width: channels of attention, a multiple of 32, at least 128.
        swin_depth: blocks of attention in a row.
        head: channels of a head.
        mlp_ratio: width of the inner layer of a block of attention over its own.
    """

    def __init__(
        self,
        resolution: PositiveInt = 64,
        in_channels: PositiveInt = 3,
        width: PositiveInt = 160,
        multipliers: Sequence[PositiveInt] = (1, 2, 2, 4),
        blocks: PositiveInt = 2,
        attention_resolutions: Sequence[PositiveInt] = (64, 32, 16, 8),
        dropout: Probability = 0.0,
        window: PositiveInt = 8,
        swin_width: PositiveInt = 192,
        swin_depth: PositiveInt = 2,
        head: PositiveInt = 32,
        mlp_ratio: PositiveInt = 4,
    ):
        described = own_spec("SwinUNet", locals())
        super().__init__()
        self.spec = described
        check_size("SwinUNet", resolution, width, multipliers)
        check_widths([width * m for m in multipliers], swin_width, head)
        self.shape = (in_channels, resolution, resolution)
        self.num_classes = 0
        self.time = TimeEmbedding(width, scale=1.0, endpoint=False)
        self.label = None
        level = 0

        def stage(inputs: int, outputs: int, resample: int, attention: bool) -> Stage:
            nonlocal level
            level -= resample
            if resample:
                return Stage(Resampling(inputs, resample), None, resample)
            size = resolution >> level
            if attention and size % min(window, size):
                raise FlowlitError(
                    f"SwinUNet: {size}×{size} pixels at level {level} are no multiple of the window {window}"
                )
            shape = (outputs, swin_width, swin_width // head, size, window, swin_depth, mlp_ratio, dropout)
            return Stage(ADMBlock(inputs, outputs, 4 * width, dropout), Swin(*shape) if attention else None)

        stem = width * multipliers[0]
        self.stem = nn.Conv2d(in_channels + 3, stem, 3, padding=1)
        attends = [resolution >> level in attention_resolutions for level in range(len(multipliers))]
        channels = self.assemble(stem, [width * m for m in multipliers], blocks, attends, stage, "first")
        self.head_norm = norm(channels, 1e-5)
        self.head = nn.Conv2d(channels, in_channels, 3, padding=1)
        self.add_second_time(width, 4 * width, False)

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions that the network reads."""
        return frozenset({"lr"})

    @property
    def stride(self) -> int:
        """Sides of images are multiples of it: of the windows of each level, in pixels of the input."""
        strides = [super().stride]
        level = 0
        for _, stage in self.named_stages():
            level -= stage.resample
            if isinstance(stage.attention, Swin):
                strides.append(stage.attention.window << level)
        return max(strides)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the predicted x (B, C, R, R) of a state x (B, C, R, R) at place t (B,), given cond["lr"].

        Raises:
            FlowlitError: without a low-resolution image (B, 3, R, R).
        """
        low = cond.get("lr")
        if low is None or low.shape != (x.shape[0], 3, *x.shape[2:]):
            shown = "none" if low is None else str(tuple(low.shape))
            raise FlowlitError(
                f"SwinUNet: expected cond['lr'] ({x.shape[0]}, 3, {x.shape[2]}, {x.shape[3]}), the "
                f"low-resolution image in [-1, 1], found {shown}"
            )
        others = {name: value for name, value in cond.items() if name != "image"}
        embedding, decoding = self.embed(x, t, others)
        return self._run(torch.cat([x, low.to(x.dtype)], 1), embedding, decoding)


def check_widths(widths: Sequence[int], swin_width: int, head: int) -> None:
    """Refuse channels that are not normalised in 32 groups of the same size.

    Raises:
        FlowlitError: saying which are.
    """
    other = [width for width in (*widths, swin_width) if width % GROUP or width < 4 * GROUP]
    if other:
        raise FlowlitError(
            f"SwinUNet: {other[0]} channels; expected multiples of {GROUP}, at least {4 * GROUP}, at every "
            "level and in attention"
        )
    if swin_width % head:
        raise FlowlitError(f"SwinUNet: swin_width {swin_width} is no multiple of head {head}")
