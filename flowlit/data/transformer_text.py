"""Text encoders of the transformers that make images: Stable Diffusion 3's three, and Z-Image's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._support.diffusers_folder import CONFIG, parts_of, read_json
from .._support.extras import needed
from .._support.packed_text import packed, rows_of_pooled
from ..errors import FlowlitError
from ..ranges import PositiveInt
from .encoder_folder import check_folder, weights_in
from .folder_part import read_part
from .model_encoder import ModelEncoder, Part, part_digest
from .text_encoder import TextPrecision

CLIP_LENGTH = 77
"""Tokens that CLIP reads."""


class FolderEncoder(ModelEncoder):
    """Texts by the models of a pipeline's folder.

    Args:
        folder: of the pipeline.
        length: tokens that are read.
        precision: bf16 rounds embeddings to bfloat16.
    """

    def __init__(self, folder: str, length: PositiveInt, precision: TextPrecision):
        self.folder = folder
        self.length = length
        self.precision = precision

    @property
    def spec(self) -> dict[str, Any]:
        arguments = {"folder": self.folder, "length": self.length, "precision": self.precision}
        return {"class_path": f"flowlit.data.{type(self).__name__}", "init_args": arguments}

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        digests = [part_digest(*part) for part in self._parts]
        templates = [getattr(part.tokenizer, "chat_template", None) for part in self._parts]
        return hashlib.sha256(json.dumps([self.length, digests, templates]).encode()).hexdigest()


class SD3Text(FolderEncoder):
    """Stable Diffusion 3's texts: two CLIPs side by side, then T5's tokens, then what the CLIPs pool.

    (77 + ``length`` + P, D): D is T5's width, zeros fill up what is narrower, and the pooled embeddings take
    P rows at the end. A pipeline without its third encoder has zeros for T5's tokens, as diffusers does.

    Args:
        folder: of the pipeline.
        length: tokens that T5 reads; CLIP reads 77.
        precision: bf16 rounds embeddings to bfloat16.
    """

    def __init__(self, folder: str, length: PositiveInt = 256, precision: TextPrecision = "float32"):
        super().__init__(folder, length, precision)

    @property
    def shape(self) -> tuple[int, int]:
        pooled = sum(part.model.config.projection_dim for part in self._parts[:2])
        return CLIP_LENGTH + self.length + rows_of_pooled(pooled, self._width), self._width

    @property
    def _width(self) -> int:
        """D, numbers of a token."""
        if len(self._parts) == 3:
            return self._parts[2].model.config.d_model
        config = read_json(Path(self.folder) / "transformer" / CONFIG)
        return config.get("joint_attention_dim", 4096)

    def _load(self) -> list[Part]:
        folder = Path(self.folder)
        kinds = parts_of(folder)
        read = []
        for place, number in enumerate(("", "_2", "_3")):
            if place == 2 and f"text_encoder{number}" not in kinds:
                break
            names = ("CLIPTokenizer", "CLIPTextModelWithProjection")
            kind = names if place < 2 else ("T5TokenizerFast", "T5EncoderModel")
            read.append(_part(folder / f"tokenizer{number}", folder / f"text_encoder{number}", *kind))
        return read

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (B, L, D) of prompts."""
        clips = [
            self._run(part, self._tokens(part, prompts, CLIP_LENGTH), output_hidden_states=True)
            for part in self._parts[:2]
        ]
        tokens = torch.cat([each.hidden_states[-2] for each in clips], 2)
        if len(self._parts) == 3:
            part = self._parts[2]
            long = self._run(part, self._tokens(part, prompts, self.length))[0]
        else:
            long = tokens.new_zeros(len(prompts), self.length, self._width)
        if tokens.shape[2] > long.shape[2]:
            raise FlowlitError(
                f"SD3Text: {self.folder} has CLIPs of {tokens.shape[2]} numbers a token together, more than "
                f"the {long.shape[2]} of its transformer's texts; expected at most as many"
            )
        tokens = F.pad(tokens, (0, long.shape[2] - tokens.shape[2]))
        return packed(torch.cat([tokens, long], 1), torch.cat([each[0] for each in clips], 1))


class ZImageText(FolderEncoder):
    """Z-Image's texts: the last hidden states but one of a Qwen3, which reads a prompt as a user's message.

    (``length``, D): zeros fill the rows that a prompt does not need. Z-Image (2511.22699).

    Args:
        folder: of the pipeline.
        length: tokens that are read, those of the message's frame among them.
        precision: bf16 rounds embeddings to bfloat16.
    """

    def __init__(self, folder: str, length: PositiveInt = 512, precision: TextPrecision = "float32"):
        super().__init__(folder, length, precision)

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self._parts[0].model.config.hidden_size

    def _load(self) -> list[Part]:
        folder = Path(self.folder)
        kind = parts_of(folder).get("text_encoder", "none")
        if not kind.startswith("Qwen3"):
            raise FlowlitError(f"ZImageText: {folder} has {kind} as text_encoder; expected a Qwen3Model")
        part = _part(folder / "tokenizer", folder / "text_encoder", "Qwen2TokenizerFast", kind)
        if not part.tokenizer.chat_template:
            raise FlowlitError(
                f"ZImageText: {folder}/tokenizer has no chat_template, by which a prompt becomes a message; "
                "fetch the folder again"
            )
        return [part]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (B, L, D) of prompts."""
        part = self._parts[0]
        frame = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [part.tokenizer.apply_chat_template(message, **frame) for message in messages]
        tokens = self._tokens(part, texts, self.length, mask=True)
        hidden = self._run(part, tokens, output_hidden_states=True).hidden_states[-2]
        return _first(hidden, tokens["attention_mask"].to(hidden.device).bool())


def _first(rows: Tensor, real: Tensor) -> Tensor:
    """Return rows (B, L, D) whose real ones (B, L) are moved to the front, and zeros behind."""
    order = real.int().argsort(dim=1, descending=True, stable=True)
    moved = rows.gather(1, order[:, :, None].expand_as(rows))
    return moved * real.gather(1, order)[:, :, None]


def _part(tokenizer: Path, encoder: Path, tokenizer_kind: str, kind: str) -> Part:
    """Read a tokenizer and a model of classes of transformers.

    Raises:
        FlowlitError: naming what is missing, or of a class that transformers lacks.
    """
    check_folder(tokenizer, encoder)
    library: Any = needed("transformers")
    if not hasattr(library, kind):
        raise FlowlitError(
            f"text encoder {encoder} is a {kind}, which transformers {library.__version__} lacks; "
            "pip install -U transformers, or fetch the folder again"
        )
    read = read_part(getattr(library, tokenizer_kind), tokenizer, {})
    return Part(read, read_part(getattr(library, kind), encoder, weights_in(encoder)))
