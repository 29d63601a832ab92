"""Text encoders of several parts, from the folder of a diffusers pipeline."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .text_encoder import TextEncoder, TextPrecision


class Part(NamedTuple):
    """A tokenizer and a model of transformers: in eval mode, float32, without gradients."""

    tokenizer: Any
    model: Any


class FolderEncoder(TextEncoder):
    """Texts by models of transformers, which lie in a pipeline's folder and are read when they are needed.

    Args:
        folder: of the pipeline.
        length: tokens that are read.
        precision: bf16 rounds embeddings to bfloat16.
    """

    _device: torch.device = torch.device("cpu")

    def __init__(self, folder: str, length: int, precision: TextPrecision):
        self.folder = folder
        self.length = length
        self.precision = precision

    @abstractmethod
    def _load(self, folder: Path) -> list[Part]:
        """Read the parts.

        Raises:
            FlowlitError: naming what is missing or does not fit.
        """

    @cached_property
    def _parts(self) -> list[Part]:
        parts = self._load(Path(self.folder))
        return [Part(tokenizer, model.requires_grad_(False).eval()) for tokenizer, model in parts]

    @property
    def spec(self) -> dict[str, Any]:
        arguments = {"folder": self.folder, "length": self.length, "precision": self.precision}
        return {"class_path": f"flowlit.data.{type(self).__name__}", "init_args": arguments}

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        digests = [part_digest(*part) for part in self._parts]
        templates = [getattr(part.tokenizer, "chat_template", None) for part in self._parts]
        return hashlib.sha256(json.dumps([self.length, digests, templates]).encode()).hexdigest()

    def to(self, device: torch.device | str) -> FolderEncoder:
        self._device = torch.device(device)
        return self

    def _run(self, part: Part, tokens: Any, **options: Any) -> Any:
        """Return what a part's model makes of tokens (B, L)."""
        model = part.model.to(self._device)
        given = {name: value.to(self._device) for name, value in tokens.items()}
        with torch.autocast(self._device.type, enabled=False):
            return model(**given, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_device"}


def numbers(tokenizer: Any, prompts: Sequence[str], length: int, mask: bool = False) -> dict[str, Tensor]:
    """Return the numbers of tokens of prompts, int64 (B, L), each cut or filled; and where they are real."""
    padded = {"padding": "max_length", "max_length": length, "truncation": True}
    tokens = tokenizer(list(prompts), **padded, return_tensors="pt")
    return {name: tokens[name] for name in ["input_ids", *["attention_mask"] * mask]}


def part_digest(tokenizer: Any, model: Any) -> str:
    """Return the hash of a tokenizer's vocabulary and rules, and of a model's weights."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    lasting = {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode())
    digest.update(str(tokenizer.pad_token_id).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
