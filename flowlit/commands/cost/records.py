"""Earlier measurements: Fréchet distances in reports, and the networks that they are of."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..._support.names import in_current_names
from ...errors import FlowlitError
from ...metrics.cost import count_parameters
from ...metrics.report import FORMAT, REPORT, Record, records
from ...networks.checkpoints.fingerprint import identity
from ...networks.checkpoints.spec import structure
from ...types import loaded_of

Reports = dict[str, dict[str, Any]]
"""What metrics*.json hold, by file."""


def read_reports(folders: Sequence[str]) -> Reports:
    """Read every metrics*.json in and below folders; print the names of files that are no reports.

    Raises:
        FlowlitError: if a folder does not exist.
    """
    reports = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise FlowlitError(
                f"--records {folder}: no such folder; expected one with metrics.json in or below it"
            )
        for path in sorted(Path(folder).rglob("metrics*.json")):
            try:
                reports[str(path)] = REPORT.read(path)
            except FlowlitError as error:
                print(f"flowlit: {path} is not {FORMAT}, skipped ({error})", file=sys.stderr)
    return reports


def belonging(network: nn.Module, reports: Reports) -> dict[str, list[Record]]:
    """Return the records of those reports that are of a network, by file.

    They have the same architecture and, where weights were read, the same weights.
    """
    own = identity(network)
    same = {"params": count_parameters(network)}
    weights = own.pop("weights")
    if loaded_of(network) is not None:
        same["sha256"] = weights
    mine = _architecture(own)
    return {
        file: records(file, report)
        for file, report in reports.items()
        if all(report.get(key) == value for key, value in same.items())
        and _architecture(report.get("built")) == mine
    }


def _architecture(built: Any) -> Any:
    """Return the spec of a network, or else its structure, without what matters in training only."""
    described = built.get("spec") or built if isinstance(built, dict) else None
    return structure(in_current_names(json.loads(json.dumps(described))))
