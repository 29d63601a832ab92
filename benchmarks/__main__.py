"""``python -m benchmarks <name> [--out results.json] [--quick]``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .report import conditions, show, write

BENCHMARKS = ("reading", "large_store", "making", "statistics", "generation")


def main(words: Sequence[str]) -> int:
    """Run one benchmark; print its tables, and write them with the conditions of the run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--out", type=Path, help="JSON file; benchmarks/results/<name>.json unless given or --quick")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works; its figures prove nothing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    benchmark = import_module(f".{given.name}", __package__)
    sizes = {**(benchmark.QUICK if given.quick else {}), "seed": given.seed}
    result = benchmark.run(**sizes)
    show(result)
    out = given.out or (None if given.quick else Path(__file__).parent / "results" / f"{given.name}.json")
    if out is not None:
        write(out, result, conditions(shlex.join(["python", "-m", "benchmarks", *words]), given.seed, given.quick))
        print(f"\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
