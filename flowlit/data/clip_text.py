"""CLIP's text encoder, from a folder or built from its sizes; by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._support.extras import needed
from ..errors import FlowlitError
from ..ranges import PositiveInt, Seed
from .clip_vocabulary import clip_tokenizer
from .encoder_folder import check_folder, weights_in
from .folder_part import read_part
from .model_encoder import ModelEncoder, Part, part_digest
from .text_encoder import TextPrecision


class CLIPEncoder(ModelEncoder):
    """A tokenizer and a model of transformers, and texts that are cut after its tokens."""

    def tokenizer(self) -> Any:
        """Return the CLIPTokenizer, as transformers has it."""
        return self._parts[0].tokenizer

    def model(self) -> Any:
        """Return the CLIPTextModel, as transformers has it: in eval mode, float32, without gradients."""
        return self._parts[0].model

    @property
    def shape(self) -> tuple[int, int]:
        config = self.model().config
        return config.max_position_embeddings, config.hidden_size

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        return part_digest(*self._parts[0])

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return the numbers of tokens, int64 (B, L); a longer text is cut, which is said once."""
        return self._tokens(self._parts[0], prompts, self.shape[0])["input_ids"]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the last hidden states (B, L, D) of prompts."""
        return self._run(self._parts[0], {"input_ids": self.tokens(prompts)})[0]


class CLIPText(CLIPEncoder):
    """CLIP's text encoder from a folder: that of a diffusers pipeline, or one that transformers wrote.

    A pipeline's folder has ``text_encoder`` and ``tokenizer`` inside; in any other, configuration, weights
    and vocabulary lie side by side. Weights are read from safetensors alone, in float32.

    Args:
        folder: of the encoder.
        precision: bf16 rounds embeddings to bfloat16.
    """

    def __init__(self, folder: str, precision: TextPrecision = "float32"):
        self.folder = folder
        self.precision = precision

    @property
    def spec(self) -> dict[str, Any]:
        arguments = {"folder": self.folder, "precision": self.precision}
        return {"class_path": "flowlit.data.CLIPText", "init_args": arguments}

    def _load(self) -> list[Part]:
        folder = Path(self.folder)
        parts = [
            folder / name if (folder / name).is_dir() else folder for name in ("tokenizer", "text_encoder")
        ]
        check_folder(*parts)
        weights = weights_in(parts[1])
        library = needed("transformers")
        tokenizer = read_part(library.CLIPTokenizer, parts[0], {})
        return [Part(tokenizer, read_part(library.CLIPTextModel, parts[1], weights))]


class RandomCLIPText(CLIPEncoder):
    """CLIP's text encoder of any size with random weights, and CLIP's vocabulary: for trials and few prompts.

    Different prompts have different embeddings, which say nothing of what the words mean. Weights follow
    from the seed alone, so that checkpoints need not hold them.

    Args:
        width: numbers for each token.
        layers: transformer blocks.
        heads: of attention; divide the width.
        length: tokens that are read, two of them ends; fewer than CLIP's 77 make short prompts less alike.
        seed: of the weights.
        precision: bf16 rounds embeddings to bfloat16.
    """

    def __init__(
        self,
        width: PositiveInt = 64,
        layers: PositiveInt = 2,
        heads: PositiveInt = 4,
        length: PositiveInt = 77,
        seed: Seed = 0,
        precision: TextPrecision = "float32",
    ):
        if width % heads:
            raise FlowlitError(f"RandomCLIPText: width is {width}, no multiple of heads, {heads}; change one")
        if length < 3:
            raise FlowlitError(
                f"RandomCLIPText: length is {length}; expected 3 tokens at least, both ends and one"
            )
        self.width = width
        self.layers = layers
        self.heads = heads
        self.length = length
        self.seed = seed
        self.precision = precision

    @property
    def spec(self) -> dict[str, Any]:
        names = ("width", "layers", "heads", "length", "seed", "precision")
        arguments = {name: getattr(self, name) for name in names}
        return {"class_path": "flowlit.data.RandomCLIPText", "init_args": arguments}

    def _load(self) -> list[Part]:
        library = needed("transformers")
        tokenizer = clip_tokenizer()
        tokenizer.model_max_length = self.length
        config = library.CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            projection_dim=self.width,
            max_position_embeddings=self.length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(self.seed)
            return [Part(tokenizer, library.CLIPTextModel(config))]
