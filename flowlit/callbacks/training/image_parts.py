"""The parts of an image's time beside the solver: its prompt is encoded, its latent decoded."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import lightning.pytorch as pl

from ...data import TextEncoder
from ...types import Noise


def other_parts(trainer: pl.Trainer, module: Any, noise: Noise) -> dict[str, Callable[[], object]]:
    """Return what generation of a batch takes beside the solver, by name: encoding of prompts, decoding.

    Neither where prompts are none, or come from a store, and images are the network's pixels.
    """
    parts: dict[str, Callable[[], object]] = {}
    data: Any = getattr(trainer, "datamodule", None)
    command = "test" if trainer.state.fn == "test" else "validate"
    source: Any = data.evaluated(command) if hasattr(data, "evaluated") else None
    if isinstance(getattr(source, "encoder", None), TextEncoder) and source.stored is None:
        encoder = copy(source.encoder).to(module.device)  # that of the noise stays where it is
        texts = [source.prompts.texts[i] for i in source.prompt_numbers(noise.index.tolist())]
        parts["text"] = partial(encoder.afresh, texts)
    codec = getattr(module, "codec", None)
    if codec is not None and not codec.pixels:
        parts["decoder"] = partial(codec.decode, noise.x0)  # of x1's shape; its values take no time
    return parts
