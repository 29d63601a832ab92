"""Folders of text encoders, as diffusers and transformers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import FlowlitError


def check_folder(tokenizer: Path, encoder: Path) -> None:
    """Refuse folders that hold no text encoder, or not its tokenizer.

    Raises:
        FlowlitError: naming what is missing.
    """
    if not encoder.is_dir():
        raise FlowlitError(f"text encoder {encoder}: there is no such folder; expected that of a pipeline")
    if not (encoder / "config.json").is_file():
        raise FlowlitError(
            f"text encoder {encoder}: there is no config.json; expected the folder of a diffusers pipeline, "
            "or of a model that transformers wrote"
        )
    files = {path.name for path in tokenizer.glob("*.*")}
    if not ({"vocab.json", "merges.txt"} <= files or "tokenizer.json" in files):
        raise FlowlitError(
            f"text encoder {encoder}: {tokenizer} has no vocab.json and merges.txt, nor tokenizer.json; put "
            "the tokenizer there"
        )


def weights_in(folder: Path) -> dict[str, Any]:
    """Return which weights of a folder to read: those of safetensors, the only ones in half precision, too.

    Raises:
        FlowlitError: if there are none, or other forms alone.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        others = sorted(path.name for path in folder.glob("*.bin")) or ["nothing"]
        raise FlowlitError(
            f"text encoder {folder}: found {others[0]}, expected model.safetensors; pickled weights are not "
            "read, since they may run code"
        )
    half = not any(name.startswith("model") and ".fp16." not in name for name in names)
    options = {"use_safetensors": True, "dtype": torch.float32}
    options["attn_implementation"] = "sdpa"  # a configuration may name code of a hub
    return options | ({"variant": "fp16"} if half else {})
