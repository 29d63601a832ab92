"""``python -m benchmarks [name] [--device cuda] [--out results.json] [--quick]``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from .report import conditions, show, write

BENCHMARKS = (
    "figures",
    "growth",
    "solving",
    "reading",
    "large_store",
    "making",
    "statistics",
    "generation",
    "calibration",
)
OF_IMAGES: dict[str, dict[str, Any]] = {
    "images": {"nargs": "+", "metavar": "PATH", "help": "zips, or a folder, of training images"},
    "held_out": {"nargs": "+", "metavar": "PATH", "help": "zips, or a folder, of held-out images"},
    "resolution": {"type": int, "help": "pixels a side to which images are averaged first"},
    "size": {"type": int, "help": "of EfficientNetLite0, to which it enlarges images"},
    "count": {"type": int, "help": "images of a set"},
    "into": {"help": "folder of features, with which a killed run goes on, and of the picture"},
}
"""Options of calibration, passed to its ``run``."""


def main(words: Sequence[str]) -> int:
    """Run one benchmark; print its tables, and write them with the conditions of the run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", default="figures", choices=BENCHMARKS)
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="cuda is for figures and solving"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file; benchmarks/results/<name>.json unless given or --quick"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: shows that it works; its figures prove nothing"
    )
    parser.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("calibration")
    for option, settings in OF_IMAGES.items():
        group.add_argument(f"--{option}", **settings)
    given = parser.parse_args(words)
    benchmark = import_module(f".{given.name}", __package__)
    options = {name: vars(given)[name] for name in OF_IMAGES if vars(given)[name] is not None}
    if options and given.name != "calibration":
        parser.error(f"{given.name} takes no --{next(iter(options))}; it is for calibration")
    sizes = {**(benchmark.QUICK if given.quick else {}), **options, "seed": given.seed}
    if available(parser, given.name, given.device) == "cuda":
        sizes["device"] = "cuda"
    result = benchmark.run(**sizes)
    show(result)
    if given.quick:
        print("\nOf small sizes: these figures prove nothing.")
    file = f"{given.name}_cuda.json" if given.device == "cuda" else f"{given.name}.json"
    out = given.out or (None if given.quick else Path(__file__).parent / "results" / file)
    if out is not None:
        write(
            out,
            result,
            conditions(shlex.join(["python", "-m", "benchmarks", *words]), given.seed, given.quick),
        )
        print(f"\nwritten to {out}")
    return 0


def available(parser: argparse.ArgumentParser, name: str, device: str) -> str:
    """Refuse a device that a benchmark does not know, or that is not there."""
    if device == "cuda" and "device" not in signature(import_module(f".{name}", __package__).run).parameters:
        parser.error(f"{name} runs on the CPU only; --device cuda is for figures and solving")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    return device


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
