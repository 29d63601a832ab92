"""Records of runs: all that a table is made of, without weights, pairs and features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..._support.files import write_atomically
from ...couplings.store.manifest import NAME as MANIFEST
from ...errors import FlowlitError
from ...metrics.report import FILES
from ...metrics.training_cost import FILE
from .runs import Runs

KEPT = ("stage.json", FILE, MANIFEST, *FILES.values())


def keep_records(runs: Runs, samples: Iterable[str], into: Path) -> None:
    """Copy what finished runs have recorded to <method>/<seed>/<stage>, beside records of other runs.

    Args:
        runs: of the table.
        samples: grids that are shown with it, in folders of the runs.
        into: folder of all records.

    Raises:
        FlowlitError: if that is the folder of the runs.
    """
    if into.resolve() == runs.folder.resolve():
        raise FlowlitError(f"{into} has the runs themselves; expected another folder for --records")
    folders = [run.root / stage for run in runs.finished for stage in run.contents]
    records = [folder / name for folder in folders for name in KEPT if (folder / name).exists()]
    for file in (*records, *map(Path, samples)):
        write_atomically(into / file.relative_to(runs.folder), file.read_bytes())
