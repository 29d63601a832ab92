"""Text encoders: prompts become what networks read as ``cond["text"]``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .._support.batch_invariance import BLOCK
from .._support.names import public_path
from ..ranges import Checked
from .prompts import check_prompt

TextPrecision = Literal["float32", "bf16"]

REMEMBERED = 1 << 28
"""Bytes of embeddings that an encoder keeps in memory, about."""


class TextEncoder(Checked, ABC):
    """Prompts to embeddings (B, L, D) float32, a function of each prompt alone: the same bits in any batch.

    A prompt that occurs again is not encoded again as long as its embedding is in the cache.
    """

    precision: TextPrecision = "float32"
    """Whether values are rounded to bfloat16, which halves a store's file of them."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(L, D): tokens, and numbers for each."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of weights and vocabulary: encoders with the same one give the same embeddings."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (B, L, D) of so many prompts as a block has, on any device."""

    @property
    def spec(self) -> dict[str, Any] | None:
        """Class and arguments to build it again: class_path and init_args."""
        return None

    def identity(self) -> dict[str, Any]:
        """Return plain data that decide about every embedding, for manifests and reports."""
        facts = {"class": public_path(type(self)), "fingerprint": self.fingerprint}
        return {**facts, "shape": list(self.shape), "precision": self.precision}

    def to(self, device: torch.device | str) -> TextEncoder:
        """Encode on a device from now on; embeddings still come back in main memory."""
        return self

    def null(self) -> Tensor:
        """Return the embedding of no prompt, that of the empty text, (L, D)."""
        return self([""])[0]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings (B, L, D) float32 of prompts.

        Raises:
            FlowlitError: for a prompt that is no text, or far too long.
        """
        known = self._known()
        embeddings = {prompt: known[prompt] for prompt in prompts if prompt in known}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in embeddings]
        embeddings.update(zip(new, self.afresh(new), strict=True))
        self._keep(embeddings)
        if not prompts:
            return torch.empty(0, *self.shape)
        return torch.stack([embeddings[prompt] for prompt in prompts])

    def afresh(self, prompts: Sequence[str]) -> list[Tensor]:
        """Encode prompts that may have been encoded before, each as often as it occurs; (L, D) each."""
        rows: list[Tensor] = []
        for first in range(0, len(prompts), BLOCK):
            block = [check_prompt(prompt, type(self).__name__) for prompt in prompts[first : first + BLOCK]]
            padded = block + block[-1:] * (BLOCK - len(block))
            with torch.no_grad():
                rows.extend(self.rounded(self.encode(padded).cpu()[: len(block)]))
        return rows

    def rounded(self, rows: Tensor) -> Tensor:
        """Return embeddings (B, L, D) as float32, in this precision."""
        return rows.bfloat16().float() if self.precision == "bf16" else rows.float()

    def _known(self) -> OrderedDict[str, Tensor]:
        return self.__dict__.setdefault("_cache", OrderedDict())

    def _keep(self, embeddings: dict[str, Tensor]) -> None:
        known = self._known()
        for prompt, row in embeddings.items():
            known[prompt] = row.clone() if row._base is not None else row
            known.move_to_end(prompt)
        tokens, width = self.shape
        while len(known) > max(1, REMEMBERED // (4 * tokens * width)):
            known.popitem(last=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}
