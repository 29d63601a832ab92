"""Verification of a store, every byte and the statistics; one pass, one shard in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._support.progress import Bar
from ...errors import FlowlitError
from ..noise import GENERATOR, seeded_normals
from .checks import check_shard, indices_fit, labels_fit
from .encoding import restored, rounded
from .manifest import check_ranges, read_manifest
from .plan import plan
from .shard import ShardFile
from .statistics import Check, PairMoments, compared
from .text import NUMBER, StoredText, check_text, manifest_prompts, prompts_fit

ENOUGH = 64
"""Pairs whose statistics say something."""


def verify(folder: str | Path, quiet: bool = False) -> list[Check]:
    """Check a store: files, counts, indices, noise, correlation of the ends, range, direction, labels.

    Raises:
        FlowlitError: if there is no manifest to compare with.
    """
    walk = _Walk(Path(folder), read_manifest(folder, whole=False))
    moments = walk.moments(quiet)
    checks = [*walk.checks()]
    return checks if moments is None else [*checks, *compared(moments, walk.manifest)]


def glance(folder: str | Path, manifest: dict[str, Any], most: int = 2) -> list[Check]:
    """Check the first and the last shards of a store, ``most`` in all, as ``verify`` checks all.

    ``manifest`` is the one that it has when it is finished.
    """
    entries = manifest["shards"]
    some = entries if len(entries) <= most else [*entries[: most - 1], entries[-1]]
    walk = _Walk(Path(folder), {**manifest, "shards": some})
    moments = walk.moments(quiet=True)
    damaged = walk.bad["files"]
    files = Check("files", f"{len(damaged)} damaged: {'; '.join(damaged)}", f"{len(some)} sound", not damaged)
    checks = [files, *(check for check in walk.checks() if check.name not in ("files", "pairs"))]
    return [*checks, *compared(moments, manifest)] if moments is not None and walk.rows >= ENOUGH else checks


class _Walk:
    """One pass over the files, which collects what is wrong with each."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        self.bad: dict[str, list[str]] = {
            key: [] for key in ("files", "indices", "drawn again", "labels", "prompts", "finite")
        }
        self.rows = 0
        self.low = math.inf
        self.high = -math.inf

    def moments(self, quiet: bool) -> PairMoments | None:
        """Walk, and return the sums over all good shards; None if there are none."""
        moments = None
        for x0, x1 in self.shards(quiet):
            moments = moments or PairMoments(x0.shape[1])
            moments.add(x0, x1)
        return moments

    def shards(self, quiet: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Both ends of every good shard, (rows, entries) float64."""
        for entry in Bar(
            self.manifest["shards"], desc="Verifying", unit=" shards", disable=quiet, leave=False
        ):
            try:
                shard = ShardFile(self.folder / Path(entry["file"]).name, entry["sha256"])
                check_shard(shard, self.manifest, entry)
            except FlowlitError as error:
                self.bad["files"].append(str(error))
                continue
            x0, x1 = self._look(shard, entry)
            path = torch.from_numpy(shard.read("path")) if "path" in shard else x1
            if all(torch.isfinite(states).all() for states in (x0, x1, path)):
                for a, b in zip(x0.split(1024), x1.split(1024), strict=True):
                    yield a.double().flatten(1).numpy(), b.double().flatten(1).numpy()
            else:
                self.bad["finite"].append(entry["file"])

    def _look(self, shard: ShardFile, entry: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        index = shard.read("index")
        x1 = restored(torch.from_numpy(shard.read("x1")))
        self.rows += len(index)
        if not indices_fit(index, entry):
            self.bad["indices"].append(entry["file"])
        x0 = self._noise(shard, entry, index)
        self.low = min(self.low, float(x1.min()))
        self.high = max(self.high, float(x1.max()))
        if "label" in shard and not labels_fit(shard.read("label"), index, self.manifest):
            self.bad["labels"].append(entry["file"])
        if NUMBER in shard and not prompts_fit(shard.read(NUMBER), index, self.manifest):
            self.bad["prompts"].append(entry["file"])
        return x0, x1

    def _noise(self, shard: ShardFile, entry: dict[str, Any], index: np.ndarray) -> torch.Tensor:
        """Read x0 or draw it again; stored noise of a known generator is compared with what it draws."""
        shape = self.manifest["shape"]
        stored = self.manifest["x0"]
        if stored == "seed":
            return seeded_normals([entry["seed"]], index.tolist(), shape)
        x0 = torch.from_numpy(shard.read("x0"))
        if self.manifest["noise"].get("generator") == GENERATOR:
            again = rounded(seeded_normals([entry["seed"]], index.tolist(), shape), stored)
            if not torch.allclose(again.float(), x0.float(), rtol=0, atol=2e-3):
                self.bad["drawn again"].append(entry["file"])
        return x0.float()

    def checks(self) -> Iterator[Check]:
        """The lines about files, counts, indices, range and labels."""
        manifest = self.manifest
        count = self.manifest["counts"][-1]
        expected = len(plan(manifest["counts"], manifest["shard_size"]))
        files = self.bad["files"]
        damage = (
            f"{len(files)} damaged: {'; '.join(files[:3])}" if files else f"{len(manifest['shards'])} sound"
        )
        yield Check("files", damage, f"{expected} sound", not files and len(manifest["shards"]) == expected)
        unfinished = (
            "" if manifest["complete"] else "; the store is not finished: run the command that began it again"
        )
        yield Check(
            "pairs", f"{self.rows:,}{unfinished}", f"{count:,}", self.rows == count and manifest["complete"]
        )
        try:
            check_ranges([self.folder], [manifest])
            twice = self.bad["indices"]
        except FlowlitError as error:
            twice = [str(error)]
        yield Check("indices", _files(twice, "unique"), "unique", not twice)
        if manifest["noise"].get("generator") == GENERATOR:
            other = self.bad["drawn again"]
            yield Check(
                "seed", _files(other, "gives the same noise here"), "gives the same noise here", not other
            )
        if NUMBER in manifest.get("conditions", {}) and "prompts" in manifest["noise"]:
            yield self._text()
        if manifest["labels"]:
            wrong = self.bad["labels"]
            yield Check("labels", _files(wrong, "as in the manifest"), "as in the manifest", not wrong)
        if self.rows:
            yield Check("values", _files(self.bad["finite"], "finite"), "finite", not self.bad["finite"])
            yield self._range()

    def _text(self) -> Check:
        number = manifest_prompts(self.manifest)
        try:
            check_text(self.folder, self.manifest, checksums=True)
            StoredText(self.folder, self.manifest).texts()
        except FlowlitError as error:
            return Check("prompts", str(error), f"{number:,} sound", False)
        wrong = self.bad["prompts"]
        return Check("prompts", _files(wrong, f"{number:,} sound"), f"{number:,} sound", not wrong)

    def _range(self) -> Check:
        low, high = self.manifest.get("range", (-math.inf, math.inf))
        fits = low - 0.01 <= self.low <= self.high <= high + 0.01
        expected = f"{low} … {high}"
        if "codec" not in self.manifest:  # latents may be of any range
            fits = fits and max(-self.low, self.high) <= 5
            expected += ", about [-1, 1]"
        return Check("range of x1", f"{self.low:.3f} … {self.high:.3f}", expected, fits)


def _files(bad: list[str], good: str) -> str:
    more = " …" if len(bad) > 3 else ""
    return f"not in {', '.join(bad[:3])}{more}" if bad else good
