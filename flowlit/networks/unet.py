"""The DDPM++ U-Net, the network of Rectified Flow and SlimFlow."""

from __future__ import annotations

from collections.abc import Sequence

from ..ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability
from .base import Second
from .checkpoints.spec import own_spec
from .layers import Attention, LabelEmbedding, ResBlock, TimeEmbedding, conv3x3
from .norm import norm
from .unet_base import Stage, UNetBase, check_size


class UNet(UNetBase):
    """DDPM++ of Song et al. 2021, a U-Net: predict a velocity, x (B, C, R, R), t (B,) in [0, 1],
    cond -> (B, C, R, R).

    Conditions: {"label": (B,)} int64 with classes, {"r": (B,)} in [0, 1] with a second time, or {}.

    A fresh network returns almost 0. The defaults are SlimFlow's 15.7M student for CIFAR-10 (15,707,235
    parameters).

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
        time_scale: what times are multiplied by before their sines are taken; 1 inside ``EDM``, which gives
            ln σ / 4.
        early_label: add the class vector to these sines, as EDM's networks do, instead of to the embedding.
        second_time: read ``cond["r"]``, as a flow map u(x, t, r) does; see ``ConditionalNetwork``.

    Source: Song et al. 2021 (2011.13456) with Rectified Flow's settings; sizes in SlimFlow (2407.12718),
        table 1.
    """

    def __init__(
        self,
        resolution: PositiveInt = 32,
        in_channels: PositiveInt = 3,
        width: PositiveInt = 96,
        multipliers: Sequence[PositiveInt] = (1, 2, 2),
        blocks: PositiveInt = 2,
        attention_resolutions: Sequence[PositiveInt] = (16,),
        dropout: Probability = 0.15,
        num_classes: NonNegativeInt = 0,
        label_dropout: Probability = 0.0,
        time_scale: PositiveFloat = 999.0,
        early_label: bool = False,
        second_time: Second = False,
    ):
        described = own_spec("UNet", locals())
        super().__init__()
        self.spec = described
        check_size("UNet", resolution, width, multipliers)
        self.shape = (in_channels, resolution, resolution)
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.early_label = early_label
        self.time = TimeEmbedding(width, scale=time_scale)
        label_dim = width if early_label else 4 * width
        self.label = LabelEmbedding(num_classes, label_dim, label_dropout) if num_classes else None

        def stage(inputs: int, outputs: int, resample: int, attention: bool) -> Stage:
            block = ResBlock(inputs, outputs, 4 * width, dropout, resample)
            return Stage(block, Attention(outputs) if attention else None, resample)

        self.stem = conv3x3(in_channels, width)
        attends = [resolution >> level in attention_resolutions for level in range(len(multipliers))]
        channels = self.assemble(width, [width * m for m in multipliers], blocks, attends, stage, "last")
        self.head_norm = norm(channels)
        self.head = conv3x3(channels, in_channels, scale=0)
        self.add_second_time(width, 4 * width, second_time)
