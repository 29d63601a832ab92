"""What a benchmark returns, as a table for people and JSON for everything else."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, Any]


@dataclass
class Claim:
    """What should hold, what was found, and whether it does."""

    claim: str
    aim: str
    found: str
    met: bool


@dataclass
class Result:
    """Tables by title, and claims about them."""

    tables: dict[str, list[Row]]
    claims: list[Claim] = field(default_factory=list)


def conditions(command: str, seed: int, quick: bool) -> dict[str, Any]:
    """Machine, versions, date and command of this run; ``load`` is the load average before and after shows
    neighbours.
    """
    packages = ("torch", "numpy", "scipy", "lightning", "safetensors", "flowlit")
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "quick": quick,
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "nice": os.nice(0),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }


def cpu_model() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def show(result: Result) -> None:
    """Print the tables, then the claims."""
    for title, rows in result.tables.items():
        print(f"\n{title}\n{table(rows)}")
    if result.claims:
        claims = [{**asdict(claim), "met": "yes" if claim.met else "NO"} for claim in result.claims]
        print(f"\nClaims\n{table(claims)}")


def table(rows: Sequence[Row]) -> str:
    """Align rows under the names of their columns; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    right = [all(isinstance(row.get(name, 0), int | float) for row in rows) for name in names]

    def line(parts: Sequence[str]) -> str:
        return "  ".join(
            p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True)
        ).rstrip()

    return "\n".join([line(names), line(["─" * width for width in widths]), *map(line, cells)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write(path: Path, result: Result, about: dict[str, Any]) -> None:
    """Write tables, claims and conditions as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, **asdict(result)}, indent=1, ensure_ascii=False) + "\n")
