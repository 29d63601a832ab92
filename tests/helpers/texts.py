"""A text encoder without transformers, and the smallest velocity that reads text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowlit.data import TextEncoder
from flowlit.ranges import Seed

TEXT = (4, 6)


class Hashed(TextEncoder):
    """Embeddings of N(0, 1) that follow from the bytes of a prompt; ``encoded`` lists those of each call."""

    def __init__(self, seed: Seed = 0, precision: str = "float32"):
        self.seed = seed
        self.precision = precision
        self.encoded: list[str] = []

    shape = TEXT

    @property
    def fingerprint(self) -> str:
        return f"hashed {self.seed}"

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "class_path": "texts.Hashed",
            "init_args": {"seed": self.seed, "precision": self.precision},
        }

    def encode(self, prompts: Sequence[str]) -> Tensor:
        self.encoded += dict.fromkeys(prompts)
        return torch.stack([self._row(prompt) for prompt in prompts])

    def _row(self, prompt: str) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {prompt}".encode()).digest()
        generator = np.random.default_rng(list(digest))
        return torch.from_numpy(generator.standard_normal(TEXT, np.float32))


class Reader(nn.Module):
    """v = a x + b t + c · mean of the text: the images are brighter for some prompts than for others."""

    reads = frozenset({"text"})
    shape = (1, 8, 8)
    num_classes = 0

    def __init__(self, seed: int = 0, text: tuple[int, int] = TEXT):
        super().__init__()
        self.text = tuple(text)
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2]))
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(text[1], 64, generator=generator) / 8)
        self.register_buffer("null_text", torch.zeros(self.text))
        self.text_encoder: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        return {"class_path": "texts.Reader", "init_args": {"text": list(self.text)}}

    def forward(self, x: Tensor, t: Tensor, cond: Any = {}) -> Tensor:
        text = cond.get("text", self.null_text.expand(len(x), *self.text))
        assert text.shape == (len(x), *self.text), text.shape
        field = (text.mean(1) @ self.mix).view(-1, 1, 8, 8)
        return self.scale[0] * x + self.scale[1] * t[:, None, None, None] + field
