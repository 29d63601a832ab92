"""Records of runs: all that a table is made of, without weights, pairs and features."""

from __future__ import annotations

from pathlib import Path

from ..._support.files import write_atomically
from ...couplings.store.manifest import NAME as MANIFEST
from ...errors import FlowlitError
from ...metrics.report import FILES
from ...metrics.training_cost import FILE
from .runs import Runs

KEPT = ("stage.json", FILE, MANIFEST, *FILES.values(), "samples/*.png")


def keep_records(runs: Runs, into: Path) -> None:
    """Copy what finished runs have recorded to <method>/<seed>/<stage>, beside records of other runs.

    Raises:
        FlowlitError: if that is the folder of the runs.
    """
    if into.resolve() == runs.folder.resolve():
        raise FlowlitError(f"{into} has the runs themselves; expected another folder for --records")
    for run in runs.finished:
        folders = [run.root / stage for stage in run.contents]
        for file in (file for folder in folders for kept in KEPT for file in folder.glob(kept)):
            write_atomically(into / file.relative_to(runs.folder), file.read_bytes())
