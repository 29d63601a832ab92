"""Text encoders made of tokenizers and models of transformers."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from .text_encoder import TextEncoder


class Part(NamedTuple):
    """A tokenizer and a model of transformers."""

    tokenizer: Any
    model: Any


class ModelEncoder(TextEncoder):
    """Texts by one or several tokenizers and models of transformers, read when they are first needed."""

    _device: torch.device = torch.device("cpu")
    _said: bool = False

    @abstractmethod
    def _load(self) -> list[Part]:
        """Read or build the parts.

        Raises:
            FlowlitError: naming what is missing or does not fit.
        """

    @cached_property
    def _parts(self) -> list[Part]:
        """The parts, their models in eval mode, without gradients."""
        return [Part(tokenizer, model.requires_grad_(False).eval()) for tokenizer, model in self._load()]

    def to(self, device: torch.device | str) -> Self:
        self._device = torch.device(device)
        return self

    def _tokens(
        self, part: Part, prompts: Sequence[str], length: int, mask: bool = False
    ) -> dict[str, Tensor]:
        """Return a part's tokens of prompts, int64 (B, L) each: their numbers and, on demand, where they are
        real. A longer prompt is cut, which is said once; a shorter one is filled up.
        """
        if not self._said:
            for prompt, own in zip(
                prompts, part.tokenizer(list(prompts), verbose=False)["input_ids"], strict=True
            ):
                self._warn(part, prompt, len(own), length)
        padded = {"padding": "max_length", "max_length": length, "truncation": True}
        tokens = part.tokenizer(list(prompts), **padded, return_tensors="pt")
        return {name: tokens[name] for name in ["input_ids", *["attention_mask"] * mask]}

    def _warn(self, part: Part, prompt: str, count: int, length: int) -> None:
        if count > length and not self._said:
            self._said = True
            logging.getLogger("flowlit").warning(
                "the prompt %.60r has %d tokens, of which %s reads %d: it is cut there, and so are others "
                "like it",
                prompt,
                count,
                type(part.tokenizer).__name__.partition("Tokenizer")[0],
                length,
            )

    def _run(self, part: Part, tokens: Mapping[str, Tensor], **options: Any) -> Any:
        """Return what a part's model makes of tokens (B, L), in float32."""
        model = part.model.to(self._device)
        given = {name: value.to(self._device) for name, value in tokens.items()}
        with torch.autocast(self._device.type, enabled=False):
            return model(**given, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_device"}


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
