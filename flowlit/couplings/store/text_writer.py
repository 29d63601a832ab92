"""Writing the prompts of a store and their embeddings; the format is described in ``text.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..._support.files import file_hash, short_hash, write_atomically
from ..._support.progress import Bar
from ...data.prompts import texts_hash
from ...data.text_encoder import TextEncoder
from ...errors import FlowlitError
from .plan import plan
from .text import FOLDER, NULL, PROMPTS, TEXT

if TYPE_CHECKING:
    from ..prompted import PromptedNoise

ROWS = 1000
"""Embeddings of a file."""


def write_text(store: Path, noise: PromptedNoise, counts: Sequence[int], device: torch.device) -> None:
    """Encode the prompts that a store needs, once each; sound files of an earlier run stay.

    Args:
        store: its folder.
        noise: source of the pairs, with prompts and their encoder.
        counts: pairs after each growth.
        device: to encode on.
    """
    folder = store / FOLDER
    texts = noise.prompts.texts
    encoder = noise.encoder.to(device)
    needed = sorted({min(count, len(texts)) for count in counts})
    parts = plan(needed, ROWS)
    used = list(texts[: needed[-1]])
    by = encoder.identity()
    bar = Bar(parts, desc="Prompts", unit=" files", leave=False, disable=len(parts) < 3)
    before = _checksums(folder)
    files = [
        _file(folder / part.file, used[part.first : part.first + part.rows], encoder, before) for part in bar
    ]
    null = _file(folder / NULL, [""], encoder, before)
    write_atomically(folder / PROMPTS, json.dumps(used, ensure_ascii=False).encode())
    facts = {
        "format": "flowlit-prompts",
        "version": 1,
        "prompts": len(used),
        "sha256": texts_hash(used),
        "encoder": by,
        "spec": encoder.spec,
        "shape": list(encoder.shape),
        "files": files,
        "null": null,
    }
    TEXT.check(facts, folder / "text.json")
    write_atomically(folder / "text.json", json.dumps(facts, indent=1).encode())


def text_bytes(texts: int, encoder: TextEncoder) -> int:
    """Return the bytes of the embeddings of so many prompts on disk."""
    tokens, width = encoder.shape
    return (texts + 1) * tokens * width * (2 if encoder.precision == "bf16" else 4)


def _checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of an earlier description by file; {} without one."""
    try:
        facts = TEXT.read(folder / "text.json")
    except FlowlitError:
        return {}
    return {entry["file"]: entry["sha256"] for entry in (*facts["files"], facts["null"])}


def _file(path: Path, texts: list[str], encoder: TextEncoder, before: dict[str, str]) -> dict[str, Any]:
    """Return the entry of a file of embeddings, which is written unless it is there, as ``before`` has it."""
    key = short_hash(json.dumps(encoder.identity()), texts_hash(texts))
    digest = file_hash(path) if _key(path) == key else None
    if digest is None or before.get(path.name, digest) != digest:
        rows = encoder(texts)
        rows = rows.bfloat16() if encoder.precision == "bf16" else rows
        write_atomically(path, save({"text": rows.contiguous()}, {"of": key}))
        digest = file_hash(path)
    return {"file": path.name, "rows": len(texts), "bytes": path.stat().st_size, "sha256": digest}


def _key(path: Path) -> str | None:
    """Return of which texts a file is, and which encoder; None if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("of")
    except (OSError, SafetensorError):
        return None
