"""U-Nets of diffusers, which read text, as networks of ours."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ..._support.extras import needed
from ...errors import FlowlitError
from ...ranges import PositiveInt
from ...types import Cond
from .diffusers_base import CLOCK, DiffusersNetwork

Prediction = Literal["velocity", "flow", "diffusion"]

FEW = 256
"""Positions of latents up to which plain attention takes little memory."""

LACKING = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)
"""Entries of a configuration that stand for inputs which are not given here."""


class DiffusersUNet(DiffusersNetwork):
    """diffusers' ``UNet2DConditionModel``: (x, t, cond) -> (B, C, R, R), with text in ``cond["text"]``.

    It has the architecture of Stable Diffusion 1.x and 2.x. Texts are embeddings (B, L, D); rows without one
    read ``null_text``, the embedding of the empty text, which is saved with the weights. ``flowlit[text]``.

    Args:
        config: as in the config.json of a folder ``unet``; what is absent has diffusers' defaults.
        predicts: "velocity" is data - noise at the time 1000 (1 - t), as InstaFlow has it, for students of
            reflow; "flow" is noise - data at that time, as in diffusers' flow matching; "diffusion" gives
            time and output as they are, to ``DiffusionVelocity`` around it.
        text_length: L, tokens of a text.

    Raises:
        FlowlitError: for configurations that diffusers refuses, or that need other inputs.
    """

    kind = "UNet2DConditionModel"
    encoder = "flowlit.data.CLIPText"
    text_length = 77
    text_width = ("cross_attention_dim", 1280)

    def __init__(
        self, config: dict[str, Any], predicts: Prediction = "velocity", text_length: PositiveInt = 77
    ):
        super().__init__(config, predicts=predicts, text_length=text_length)
        self.predicts = predicts
        self.shape = _shape(self.model.config)
        width = self.model.config.cross_attention_dim
        if not isinstance(width, int):
            raise FlowlitError(
                f"DiffusersUNet: cross_attention_dim is {width!r}; expected one whole number, D of texts"
            )
        self._read_texts(text_length, width)
        self._plain = False

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the prediction (B, C, R, R) at x (B, C, R, R) and t (B,), under cond["text"] (B, L, D).

        Raises:
            FlowlitError: for inputs of other shapes, and other conditions.
        """
        text = self._checked(x, t, cond).to(x.dtype)
        time = t if self.predicts == "diffusion" else CLOCK * (1 - t)
        self._recompute()
        self._attend(x)
        output = self.model(x, time, encoder_hidden_states=text, return_dict=False)[0]
        return -output if self.predicts == "flow" else output

    def residual_blocks(self) -> list[nn.Module]:
        """Return the residual blocks, of which those that keep their shape can be left out for good."""
        kind = needed("diffusers").models.resnet.ResnetBlock2D
        return [module for module in self.model.modules() if isinstance(module, kind)]

    def _attend(self, x: Tensor) -> None:
        """Compute attention of few positions in its plain form where a CPU trains.

        PyTorch's fused backward takes longer there than all the rest of a small network.
        """
        plain = self.training and x.device.type == "cpu" and x[0, 0].numel() <= FEW
        if plain != self._plain:
            classes = needed("diffusers").models.attention_processor
            kind = classes.AttnProcessor if plain else classes.AttnProcessor2_0
            self.model.set_attn_processor(kind())
            self._plain = plain


def _shape(config: Any) -> tuple[int, int, int]:
    """Return (C, R, R) of x, and refuse configurations that need other inputs or have other outputs."""
    if others := [name for name in LACKING if config.get(name) is not None]:
        raise FlowlitError(
            f"DiffusersUNet: the configuration has {others[0]}: {config[others[0]]!r}, an input beside text; "
            "expected a U-Net as of Stable Diffusion 1.x or 2.x"
        )
    if config.in_channels != config.out_channels:
        raise FlowlitError(
            f"DiffusersUNet: {config.in_channels} channels in and {config.out_channels} out; expected equal "
            "numbers (U-Nets for inpainting, and those that predict a variance, are other networks)"
        )
    if not isinstance(config.sample_size, int):
        raise FlowlitError(
            f"DiffusersUNet: sample_size is {config.sample_size!r}; expected one whole number, R of x"
        )
    return config.in_channels, config.sample_size, config.sample_size
