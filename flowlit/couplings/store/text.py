"""Prompts of a store and their embeddings, each once: the folder ``text`` beside the pairs.

``text.json`` describes it, ``prompts.json`` lists the texts, and files of safetensors hold their embeddings
(rows, L, D); ``null.safetensors`` that of the empty text. Pairs have the number of their prompt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..._support.files import file_hash
from ..._support.schema import Format, Positive
from ...data.prompts import texts_hash
from ...errors import FlowlitError
from .schema import Checksum

FOLDER = "text"
NUMBER = "prompt"
"""Condition of a pair that is the number of its prompt."""

IN_MEMORY = 1 << 28
"""Bytes of embeddings, as float32, that a reader keeps in memory."""

NULL = "null.safetensors"
PROMPTS = "prompts.json"
MEND = "make the couplings again in another folder, or run the command that made them"


class TextFile(Struct):
    """A file of embeddings."""

    file: Annotated[str, Meta(pattern=r"\A([0-9]{5,6}|null)\.safetensors\Z")]
    rows: Positive
    bytes: Positive
    sha256: Checksum


class TextFacts(Struct):
    """Description of a store's prompts."""

    format: str
    prompts: Positive
    sha256: Checksum
    encoder: dict[str, Any]
    spec: dict[str, Any] | None
    shape: Annotated[list[Positive], Meta(min_length=2, max_length=2)]
    files: list[TextFile]
    null: TextFile

    def __post_init__(self) -> None:
        if sum(file.rows for file in self.files) != self.prompts:
            raise ValueError(f"its files have not {self.prompts:,} rows together")


TEXT = Format(TextFacts, "description of prompts", MEND, "flowlit-prompts", (1, 1), 64 << 20)


def check_text(store: Path, manifest: dict[str, Any], checksums: bool = False) -> dict[str, Any]:
    """Return the description of a store's prompts, whose files are there, and have their bytes.

    Args:
        store: its folder.
        manifest: of the store.
        checksums: read all of them, and compare checksums.

    Raises:
        FlowlitError: if one is missing or damaged, or they are not those of the manifest.
    """
    folder = store / FOLDER
    facts = TEXT.read(folder / "text.json")
    if facts["encoder"] != manifest["noise"].get("encoder"):
        raise FlowlitError(f"{folder}: another encoder made these embeddings than the manifest says; {MEND}")
    all_of_them = manifest["noise"].get("prompts") or {}
    if facts["prompts"] == all_of_them.get("number") and facts["sha256"] != all_of_them["sha256"]:
        raise FlowlitError(f"{folder}: it has other prompts than the manifest says; {MEND}")
    wanted = manifest_prompts(manifest)
    if facts["prompts"] < wanted:
        raise FlowlitError(f"{folder} has {facts['prompts']} prompts, expected {wanted}; {MEND}")
    for entry in (*facts["files"], facts["null"]):
        path = folder / entry["file"]
        try:
            same = not checksums or file_hash(path) == entry["sha256"]
            sound = same and path.stat().st_size == entry["bytes"]
        except OSError:
            sound = False
        if not sound:
            raise FlowlitError(f"{path} is missing or damaged; {MEND}")
    return facts


def manifest_prompts(manifest: dict[str, Any]) -> int:
    """Return how many prompts the pairs of a manifest have."""
    rows = max((entry["index"][1] + 1 for entry in manifest["shards"]), default=manifest["counts"][-1])
    return min(rows, (manifest["noise"].get("prompts") or {}).get("number", 0))


def prompts_fit(numbers: np.ndarray, index: np.ndarray, manifest: dict[str, Any]) -> bool:
    """Return whether numbers of prompts (rows,) are those of the indices (rows,) of pairs."""
    number = (manifest["noise"].get("prompts") or {}).get("number")
    return number is None or bool((numbers == index % number).all())


class StoredText:
    """Embeddings of a store's prompts by number.

    Args:
        store: its folder.
        manifest: of the store.
        checksums: compare each file with its checksum when it is first read.

    Raises:
        FlowlitError: as ``check_text``.
    """

    def __init__(self, store: Path, manifest: dict[str, Any], checksums: bool = True):
        self.folder = store / FOLDER
        self.facts = check_text(store, manifest)
        entries = (*self.facts["files"], self.facts["null"])
        self._unread = {entry["file"]: entry["sha256"] for entry in entries if checksums}
        self.shape = tuple(self.facts["shape"])
        self.ends = torch.tensor([entry["rows"] for entry in self.facts["files"]]).cumsum(0)
        self._open: dict[str, Any] = {}
        self._whole: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker opens its own files

    @property
    def spec(self) -> dict[str, Any] | None:
        """Class and arguments to build the encoder again."""
        return self.facts["spec"]

    def null(self) -> Tensor:
        """Return the embedding of the empty text, (L, D) float32."""
        return self._read(NULL, 0, 1)[0]

    def texts(self) -> list[str]:
        """Read the prompts, in the order of their numbers."""
        try:
            texts = json.loads((self.folder / PROMPTS).read_bytes())
        except (OSError, ValueError) as error:
            raise FlowlitError(f"{self.folder / PROMPTS} cannot be read ({error}); {MEND}") from error
        if not isinstance(texts, list) or texts_hash(texts) != self.facts["sha256"]:
            raise FlowlitError(f"{self.folder / PROMPTS} has not the prompts of text.json; {MEND}")
        return texts

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) float32 of prompts (B,).

        Raises:
            FlowlitError: for numbers that no prompt has.
        """
        count = self.facts["prompts"]
        if len(numbers) and not -1 < int(numbers.min()) <= int(numbers.max()) < count:
            raise FlowlitError(f"{self.folder}: a pair has a prompt that is none of its {count}; {MEND}")
        if 4 * count * self.shape[0] * self.shape[1] <= IN_MEMORY:
            if self._whole is None:
                self._whole = torch.cat([self._read(e["file"], 0, e["rows"]) for e in self.facts["files"]])
            return self._whole[numbers]
        unique, place = numbers.unique(return_inverse=True)
        files = torch.searchsorted(self.ends, unique, right=True).tolist()
        rows = []
        for number, file in zip(unique.tolist(), files, strict=True):
            entry = self.facts["files"][file]
            start = number - int(self.ends[file]) + entry["rows"]
            rows.append(self._read(entry["file"], start, start + 1))
        return torch.cat(rows)[place]

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        try:
            if name not in self._open:
                if self._unread.pop(name, None) not in (None, file_hash(self.folder / name)):
                    raise FlowlitError(f"{self.folder / name} is missing or damaged; {MEND}")
                self._open[name] = safe_open(os.fspath(self.folder / name), "pt")
            rows = self._open[name].get_slice("text")[start:stop].float()
        except (OSError, SafetensorError) as error:
            raise FlowlitError(f"{self.folder / name} cannot be read ({error}); {MEND}") from error
        if tuple(rows.shape) != (stop - start, *self.shape):
            raise FlowlitError(f"{self.folder / name} has rows {tuple(rows.shape)}; {MEND}")
        return rows


def text_of(
    folders: Sequence[Path], manifests: Sequence[dict[str, Any]], checksums: bool
) -> StoredText | None:
    """Return the embeddings of stores that are read as one, the most that one has; None without prompts."""
    if NUMBER not in manifests[0].get("conditions", {}) or "prompts" not in manifests[0]["noise"]:
        return None
    most = max(range(len(folders)), key=lambda k: manifest_prompts(manifests[k]))
    return StoredText(folders[most], manifests[most], checksums)


def with_text(conditions: dict[str, Any], text: StoredText | None) -> dict[str, Any]:
    """Return dtype and shape of conditions by name, with a text in place of the number of a prompt."""
    if text is None:
        return conditions
    others = {name: kind for name, kind in conditions.items() if name != NUMBER}
    return {**others, "text": ("float32", text.shape)}
