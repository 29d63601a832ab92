"""A coupling on disk: safetensors shards and a manifest.

``manifest.json`` says what the pairs are (format version, shape, count, noise, seed, teacher, solver), and lists the finished
shards with their checksums. ``00000.safetensors`` and so on hold x0 and x1 (rows, C, H, W), index (rows,) and, if there are
classes, label (rows,). Every file is written under a temporary name, synced and renamed, so that a torn one is never read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ..types import FlowlitError

FORMAT, VERSION = "flowlit-couplings", 1


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either absent or whole.

    Raises:
        FlowlitError: if the disk is full or cannot be written; nothing that was there before is lost.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise FlowlitError(f"{path} cannot be written ({error}); free some space and run the same command again") from error


def plain(content: Any) -> Any:
    """Reduce to what JSON can hold, as a reader will see it."""
    return json.loads(json.dumps(content))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """One folder of pairs."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises:
            FlowlitError: if there is none, or it is of another format or version.
        """
        try:
            manifest = json.loads(self.manifest_path.read_text())
        except FileNotFoundError as error:
            raise FlowlitError(
                f"no couplings in {self.folder} (expected {self.manifest_path.name} and shards). Make them first: "
                f"flowlit couple -c experiments/couple_….yaml --store {self.folder}"
            ) from error
        except ValueError as error:
            raise FlowlitError(f"{self.manifest_path} is not valid JSON ({error}); make the couplings again") from error
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            found = f"{manifest.get('format')} version {manifest.get('version')}"
            raise FlowlitError(f"{self.manifest_path} is {found}; this flowlit reads {FORMAT} version {VERSION}")
        return manifest

    def begin(self, identity: dict[str, Any]) -> None:
        """Start or continue a store whose pairs are what ``identity`` says.

        Raises:
            FlowlitError: if the folder already holds other pairs.
        """
        identity = plain({"format": FORMAT, "version": VERSION, **identity})
        if self.manifest_path.exists():
            known = self.manifest()
            if different := [key for key in identity if known.get(key) != identity[key]]:
                found = "; ".join(f"{key}: {known.get(key)} there, {identity[key]} now" for key in different)
                raise FlowlitError(
                    f"{self.folder} already holds other pairs ({found}). Choose another folder with --store, or remove it"
                )
        else:
            self._write_manifest({**identity, "complete": False, "shards": []})

    def finish(self) -> dict[str, Any]:
        """List all shards in the manifest and mark it complete."""
        manifest = self.manifest()
        present = self.finished_shards()
        expected = math.ceil(manifest["count"] / manifest["shard_size"])
        if len(present) < expected:
            missing = sorted(set(range(expected)) - set(present))
            raise FlowlitError(f"{self.folder} lacks shards {missing[:5]} of {expected}; run the same command again")
        entries = [self._entry(number) for number in tqdm(range(expected), desc="Checksums", leave=False)]
        total = sum(entry["rows"] for entry in entries)
        manifest["shards"] = entries
        manifest["nfe"] = {
            "mean": sum(entry["nfe_sum"] for entry in entries) / total,
            "max": max(entry["nfe_max"] for entry in entries),
        }
        manifest["range"] = [min(e["range"][0] for e in entries), max(e["range"][1] for e in entries)]
        manifest["complete"] = True
        self._write_manifest(manifest)
        return manifest

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomically(self.manifest_path, json.dumps(manifest, indent=1).encode())

    def shard_path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def finished_shards(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.safetensors") if path.stem.isdigit())

    def write_shard(self, number: int, tensors: dict[str, Tensor], nfe: Tensor) -> None:
        """Write a shard atomically; its own header keeps what the manifest will say of it."""
        x1 = tensors["x1"]
        facts = {
            "rows": len(x1),
            "nfe_sum": int(nfe.sum()),
            "nfe_max": int(nfe.max()),
            "range": [round(float(x1.min()), 4), round(float(x1.max()), 4)],
        }
        content = save({k: v.contiguous().cpu() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
        write_atomically(self.shard_path(number), content)

    def _entry(self, number: int) -> dict[str, Any]:
        path = self.shard_path(number)
        with _reading(path), safe_open(path, "pt") as shard:
            facts = json.loads((shard.metadata() or {})["facts"])
        return {"file": path.name, **facts, "sha256": file_hash(path)}

    def load_shard(self, name: str, checksum: str | None = None) -> dict[str, Tensor]:
        """Map a shard into memory, after comparing its checksum if one is given; pages are read when touched."""
        path = self.folder / Path(name).name  # a manifest cannot point out of its folder
        with _reading(path):
            if checksum is not None and file_hash(path) != checksum:
                raise ValueError("its checksum is not that of the manifest")
            shard = load_file(path)
            if missing := {"x0", "x1"} - shard.keys():
                raise ValueError(f"it has no {sorted(missing)}")
        return shard


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while reading a shard into one clear error."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise FlowlitError(
            f"shard {path} is missing or corrupt ({error}). Remove it and run the `flowlit couple` command that made the "
            "store: only this shard will be made again"
        ) from error


def check_pairs(x0: Tensor, x1: Tensor, where: str) -> None:
    """Look at some pairs before training on them: the noise must be noise, and the ends not swapped.

    Raises:
        FlowlitError: if x0 is far from N(0, 1) in mean or standard deviation, or x1 is not finite.
    """
    x0, x1 = x0.double(), x1.double()
    tolerance = 0.01 + 6 / math.sqrt(x0.numel())
    mean, std = float(x0.mean()), float(x0.std())
    if not (abs(mean) <= tolerance and abs(std - 1) <= tolerance):  # NaN is no noise either
        hint = "the ends seem swapped: x0 is noise, x1 is data. " if float(x1.mean().abs()) < tolerance else ""
        raise FlowlitError(
            f"{where}: x0 has mean {mean:.3f} and standard deviation {std:.3f}, expected 0 and 1 (noise). {hint}"
            "Make the couplings again with `flowlit couple`"
        )
    if not torch.isfinite(x1).all():
        raise FlowlitError(f"{where}: x1 is not finite everywhere. Make the couplings again with a healthy teacher")
