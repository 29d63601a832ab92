"""Text as the condition: prompts with seeded noise, and labelled images whose labels become prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import rng
from ..data.prompts import Prompts
from ..data.text_encoder import TextEncoder
from ..errors import FlowlitError
from ..ranges import PositiveInt, Probability, Seed
from ..types import Codec, Cond, ImageDataset, Noise, Pair, Source
from .independent import Independent
from .noise import GENERATOR, ROWS, seeded_normals
from .store.text import NUMBER, StoredText


class PromptedNoise(Source):
    """Noise N(0, I) and prompts: where generation from text starts, and ``flowlit couple``.

    Sample i has the noise of (seed, i) and prompt i modulo their number, as ``cond["text"]``.

    Args:
        shape: of one sample, [C, H, W].
        num: how many samples.
        prompts: texts.
        encoder: of the texts, the one of training.
        seed: of the noise; see ``SeededNoise``.
    """

    standard_normal = True

    def __init__(
        self,
        shape: Sequence[PositiveInt],
        num: PositiveInt,
        prompts: Prompts,
        encoder: TextEncoder,
        seed: Seed = 0,
    ):
        if num > ROWS:
            raise FlowlitError(f"PromptedNoise: num is {num}; expected up to 2^50")
        self.shape = tuple(shape)
        self.num = num
        self.prompts = prompts
        self.encoder = encoder
        self.seed = seed
        self.stored: StoredText | None = None
        """Embeddings that a store has, in place of those of the encoder."""

    def __len__(self) -> int:
        return self.num

    def first(self, num: int) -> PromptedNoise:
        return self._like(num, self.seed)

    def reseeded(self, seed: int) -> PromptedNoise:
        return self._like(self.num, seed)

    def _like(self, num: int, seed: int) -> PromptedNoise:
        source = PromptedNoise(self.shape, num, self.prompts, self.encoder, seed)
        source.stored = self.stored
        return source

    def identity(self) -> dict[str, Any]:
        facts = {"generator": GENERATOR, "seed": self.seed, "shape": list(self.shape)}
        prompts = {"sha256": self.prompts.fingerprint, "number": len(self.prompts), "law": "by index"}
        return {**facts, "prompts": prompts, "encoder": self.encoder.identity()}

    def prompt_numbers(self, indices: Sequence[int]) -> Tensor:
        """Return which prompts samples have, int64 (B,)."""
        number = len(self.prompts)
        return torch.tensor([i % number for i in indices], dtype=torch.int64)

    def as_stored(self, index: Tensor, cond: Cond) -> Cond:
        """Return conditions (B, …) of samples (B,) with the number of the prompt in place of its text."""
        others = {name: value for name, value in cond.items() if name != "text"}
        return {**others, NUMBER: index % len(self.prompts)}

    def batch(self, indices: Sequence[int]) -> Noise:
        x0 = seeded_normals([self.seed], indices, self.shape)
        numbers = self.prompt_numbers(indices)
        if self.stored is not None:
            text = self.stored.rows(numbers)
        else:
            text = self.encoder([self.prompts.texts[k] for k in numbers.tolist()])
        return Noise(torch.tensor(indices), x0, {"text": text})


class PromptedImages(Independent):
    """Real images with noise of their own, and a prompt for each label: the coupling of a text teacher.

    ``cond["text"]`` has the embedding of the label's prompt, and nothing of the label is left. Which prompts
    are dropped is drawn for each sample, as all draws of a training step.

    Args:
        images: with labels.
        prompts: one for each class, as ``Prompts(classes=…)`` has them.
        encoder: of the texts.
        text_dropout: probability of the empty text in place of a prompt; 0.1 is usual for guidance.
        flip: mirror each image with probability ½.
        codec: images to x1, the same as the model's; None is ``Pixels``.
    """

    def __init__(
        self,
        images: ImageDataset,
        prompts: Prompts,
        encoder: TextEncoder,
        text_dropout: Probability = 0.0,
        flip: bool = False,
        codec: Codec | None = None,
    ):
        super().__init__(images, flip, codec)
        self.prompts = prompts
        self.encoder = encoder
        self.text_dropout = text_dropout
        self._table: Tensor | None = None  # (classes + 1, L, D), the empty text last

    def dataset(self) -> Dataset:
        images = super().dataset()
        if "label" not in self.images[0]["cond"]:
            raise FlowlitError(
                f"PromptedImages: {self.source} have no labels to make prompts of; set labels: true"
            )
        counts = self.images.label_counts() or {}
        classes = max(len(self.images.classes or ()), max(counts, default=-1) + 1)
        if classes > len(self.prompts):
            raise FlowlitError(
                f"PromptedImages: {self.source} have {classes} classes, but there are {len(self.prompts)} "
                "prompts; give one for each class, in their order"
            )
        self._table = self.encoder([*self.prompts.texts, ""])
        return images

    def blank(self, image: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
        """Return an image (C, H, W), and zeros of the shape of a text, (L, D)."""
        return image, {"text": torch.zeros(self.encoder.shape)}

    def complete(self, batch: Any, device: torch.device) -> Pair:
        pair = super().complete(batch, device)
        if self._table is None:
            self._table = self.encoder([*self.prompts.texts, ""])
        self._table = self._table.to(pair.x1.device)
        numbers = dropped(pair.cond["label"], len(self._table) - 1, self.text_dropout)
        return pair._replace(cond={"text": self._table[numbers]})


def dropped(numbers: Tensor, null: int, share: float) -> Tensor:
    """Replace numbers of prompts (B,) by ``null`` with a probability, each independently; (B,)."""
    if not share:
        return numbers
    return torch.where(rng.rand(len(numbers), numbers.device) < share, null, numbers)


def without_text(text: Tensor, null: Tensor, share: float) -> Tensor:
    """Replace embeddings (B, L, D) by that of the empty text (L, D) with a probability, (B, L, D)."""
    if not share:
        return text
    drop = rng.rand(len(text), text.device) < share
    return torch.where(drop[:, None, None], null.to(text), text)
