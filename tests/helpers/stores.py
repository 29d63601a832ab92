"""Makes stores as ``flowlit couple`` does, without Lightning; and damages them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save
from tools import LinearField
from torch import Tensor, nn

from flowlit.couplings import SeededNoise
from flowlit.couplings.origins import FromNoise, Origin
from flowlit.couplings.parts import Part, Parts
from flowlit.couplings.store.encoding import X0, X1, pack
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.networks import EmpiricalFlow
from flowlit.solvers import Euler
from flowlit.types import Pair, Solver

NOISE = SeededNoise((1, 4, 4), 50, seed=3, num_classes=4)
REMARKS = {"flowlit": "0"}


def identity(origin: Origin, counts: list[int], /, **changes: Any) -> dict[str, Any]:
    """What a manifest says of pairs that may not change."""
    facts = {
        "origin": origin.name,
        "shape": list(origin.shape),
        "seeds": [origin.seed],
        **origin.facts(counts),
    }
    kind = {
        "x0": "float32",
        "x1": "float32",
        "shard_size": 20,
        "teacher": {"sha256": "abc"},
        "solver": {"class_path": "Euler"},
    }
    return {**facts, **kind, **changes}


def solve(part: Part, teacher: Any, solver: Solver) -> tuple[Pair, Tensor]:
    """Find the missing end of a part, and what it cost."""
    x0, x1, nfe = part.x0, part.x1, torch.zeros(len(part.index), dtype=torch.int64)
    with torch.no_grad():
        if x1 is None:
            x1, nfe = solver(teacher, x0, part.cond)
        elif x0 is None:
            x0, nfe = solver(teacher, x1, part.cond, reverse=True)
    return Pair(x0, x1, part.cond), nfe


def fill(
    folder: Path | str,
    teacher: Any = None,
    solver: Solver | None = None,
    origin: Origin | None = None,
    num: int = 50,
    x0: X0 = "float32",
    x1: X1 = "float32",
    shard_size: int = 20,
    shards: Sequence[int] | None = None,
    finish: bool = True,
    **changes: Any,
) -> str:
    """Begin, continue or grow a store; ``shards``: make only these; ``changes``: of its identity."""
    origin, teacher, solver, store = (
        origin or FromNoise(NOISE),
        teacher or LinearField(),
        solver or Euler(2),
        Store(folder),
    )
    with store.writing():
        counts = store.counts(num)
        store.begin(identity(origin, counts, x0=x0, x1=x1, shard_size=shard_size, **changes), counts, REMARKS)
        for shard in store.missing():
            if shards is None or shard.number in shards:
                parts = list(Parts(origin, [shard], 8))
                pairs, nfe = zip(*(solve(part, teacher, solver) for part in parts), strict=True)
                cond = {key: torch.cat([pair.cond[key] for pair in pairs]) for key in pairs[0].cond}
                pair = Pair(
                    torch.cat([pair.x0 for pair in pairs]), torch.cat([pair.x1 for pair in pairs]), cond
                )
                index = torch.cat([part.index for part in parts])
                store.write_shard(shard, *pack(index, pair, torch.cat(nfe), origin.seed, x0, x1))
        if finish:
            store.finish()
    return str(folder)


class Blind(nn.Module):
    """A velocity that does not look at labels."""

    def __init__(self, velocity: nn.Module):
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, t: Tensor, cond: Any = {}) -> Tensor:
        return self.velocity(x, t)


def digits_flow() -> nn.Module:
    """A teacher whose pairs end in 4×4 digits."""
    return Blind(EmpiricalFlow(Digits(limit=50).data[0][:, :, ::2, ::2].float() / 127.5 - 1))


def content(folder: Path | str) -> dict[str, bytes]:
    """The bytes of a store."""
    return {
        path.name: path.read_bytes()
        for path in sorted(Path(folder).iterdir())
        if not path.name.startswith(".")
    }


def stamps(folder: Path | str) -> dict[str, int]:
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.safetensors")}


# damage


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def truncated_in_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(1000))


def of_another_kind(path: Path) -> None:
    path.write_bytes(save({"something": np.zeros(3, np.float32)}))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def one_bit(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE = [
    missing,
    truncated,
    truncated_in_its_header,
    longer,
    emptied,
    garbage,
    of_another_kind,
    a_folder,
    one_bit,
]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def trust(folder: Path) -> None:
    """Let the manifest take the shards as they are now."""

    def take(manifest: dict[str, Any]) -> None:
        for entry in manifest["shards"]:
            path = folder / entry["file"]
            entry |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": os.path.getsize(path)}

    edit_manifest(folder, take)


def edit_shard(path: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Change the arrays of a shard, and let the manifest say that this is right."""
    arrays = {name: array.copy() for name, array in load(path.read_bytes()).items()}
    change(arrays)
    path.write_bytes(save(arrays, {"facts": "{}"}))
    trust(path.parent)


def edit_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let the header of a shard lie, and the manifest believe it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = json.dumps(change(header) or header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    trust(path.parent)
