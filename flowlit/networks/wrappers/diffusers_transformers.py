"""Transformers of diffusers whose output is a velocity: Stable Diffusion 3's and Z-Image's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._support.packed_text import lengths, rows_of_pooled, unpacked
from ...errors import FlowlitError
from ...ranges import PositiveInt
from ...types import Cond
from .diffusers_base import CLOCK, DiffusersNetwork


class DiffusersSD3(DiffusersNetwork):
    """diffusers' ``SD3Transformer2DModel``: (x, t, cond) -> (B, C, R, R), with text in ``cond["text"]``.

    Its output is noise - data at the time 1000 (1 - t): minus it is the velocity. Texts are embeddings
    (B, L + P, D) as ``flowlit.data.SD3Text`` makes them: tokens, then the pooled embedding in P rows. Rows
    without text read ``null_text``. Esser et al. 2024 (2403.03206). ``flowlit[text]``.

    Args:
        config: as in the config.json of a folder ``transformer``; what is absent has diffusers' defaults.
        text_length: L, tokens of a text.

    Raises:
        FlowlitError: for configurations that diffusers refuses.
    """

    kind = "SD3Transformer2DModel"
    encoder = "flowlit.data.SD3Text"
    text_length = 333
    text_width = ("joint_attention_dim", 4096)

    def __init__(self, config: dict[str, Any], text_length: PositiveInt = 333):
        super().__init__(config, text_length=text_length)
        own = self.model.config
        if own.in_channels != own.out_channels:
            raise FlowlitError(
                f"DiffusersSD3: {own.in_channels} channels in and {own.out_channels} out; expected as many"
            )
        self.shape = (own.in_channels, own.sample_size, own.sample_size)
        self.pooled = own.pooled_projection_dim
        self._read_texts(text_length + self.pooled_rows(own), own.joint_attention_dim)

    @classmethod
    def pooled_rows(cls, config: Mapping[str, Any]) -> int:
        return rows_of_pooled(config.get("pooled_projection_dim", 2048), config.get(*cls.text_width))

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), under cond["text"] (B, L + P, D).

        Raises:
            FlowlitError: for inputs of other shapes, and other conditions.
        """
        tokens, pooled = unpacked(self._checked(x, t, cond).to(x.dtype), self.pooled)
        self._recompute()
        texts = {"encoder_hidden_states": tokens, "pooled_projections": pooled}
        return -self.model(x, timestep=CLOCK * (1 - t), **texts, return_dict=False)[0]


class DiffusersZImage(DiffusersNetwork):
    """diffusers' ``ZImageTransformer2DModel``: (x, t, cond) -> (B, C, R, R), with text in ``cond["text"]``.

    Its output is the velocity, data - noise, at our own time. Texts are embeddings (B, L, D) as
    ``flowlit.data.ZImageText`` makes them: zeros fill the rows that a text does not need, and are left out.
    Rows without text read ``null_text``. Z-Image (2511.22699). ``flowlit[text]``.

    Args:
        config: as in the config.json of a folder ``transformer``; what is absent has diffusers' defaults.
        sample_size: R, which the configuration lacks.
        text_length: L, tokens of a text at most.

    Raises:
        FlowlitError: for configurations that diffusers refuses, or that need other inputs.
    """

    kind = "ZImageTransformer2DModel"
    encoder = "flowlit.data.ZImageText"
    text_length = 512
    text_width = ("cap_feat_dim", 2560)

    def __init__(
        self, config: dict[str, Any], sample_size: PositiveInt = 128, text_length: PositiveInt = 512
    ):
        super().__init__(config, sample_size=sample_size, text_length=text_length)
        own = self.model.config
        if own.siglip_feat_dim is not None:
            raise FlowlitError(
                f"DiffusersZImage: the configuration has siglip_feat_dim: {own.siglip_feat_dim}, an input "
                "beside text; expected a Z-Image without it"
            )
        self._patches = {"patch_size": own.all_patch_size[0], "f_patch_size": own.all_f_patch_size[0]}
        self.shape = (own.in_channels, sample_size, sample_size)
        self._read_texts(text_length, own.cap_feat_dim)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), under cond["text"] (B, L, D).

        Raises:
            FlowlitError: for inputs of other shapes, and other conditions.
        """
        text = self._checked(x, t, cond).to(x.dtype)
        self._recompute()
        captions = [row[:length] for row, length in zip(text, lengths(text), strict=True)]
        frames = list(x.unsqueeze(2))
        output = self.model(frames, t, captions, **self._patches, return_dict=False)[0]
        return torch.stack(list(output)).squeeze(2)
