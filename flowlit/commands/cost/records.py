"""Earlier measurements: Fréchet distances in reports, and the networks that they are of."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ..._support.names import in_current_names
from ...errors import FlowlitError
from ...metrics.base import Estimate
from ...metrics.cost import count_parameters
from ...metrics.report import FORMAT, REPORT, distance_features
from ...networks.checkpoints.fingerprint import identity
from ...networks.checkpoints.spec import structure
from ...types import loaded_of

Reports = dict[str, dict[str, Any]]
"""What metrics*.json hold, by file."""


class Kind(NamedTuple):
    """Distances that may be compared: of so many images, in the same features, from the same real images."""

    name: str  # fid, or frechet_<features>
    images: int | None
    features: str | None
    reference: str | None

    def label(self, others: Sequence[Kind]) -> str:
        """Return the name and number of images, and what else differs among others of that name."""
        same = [other for other in others if other.name == self.name]
        words = [self.name] if self.images is None else [f"{self.name}, {self.images:,} images"]
        for part in ("features", "reference"):
            if len({getattr(other, part) for other in same}) > 1:
                words.append(f"{part} {str(getattr(self, part))[:8]}")
        return ", ".join(words)


@dataclass
class Record:
    """The measurements of one solver in a report."""

    file: str
    solver: str
    nfe: float | None
    distances: dict[Kind, Estimate]

    def plain(self) -> dict[str, Any]:
        distances = [{**kind._asdict(), **distance._asdict()} for kind, distance in self.distances.items()]
        return {"file": self.file, "solver": self.solver, "nfe": self.nfe, "distances": distances}


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


def records(file: str, report: dict[str, Any]) -> list[Record]:
    """Return the Fréchet distances of each solver of a report that has any."""
    metrics = report.get("metrics", {})
    spread = report.get("spread", {})
    protocols = report.get("features", {})
    by_solver: dict[str, Record] = {}
    for tag, value in metrics.items():
        name, _, solver = tag.rpartition("/")
        features = distance_features(name)
        if value is None or features is None:
            continue
        protocol = protocols.get(features, {})
        reference = (protocol.get("reference") or {}).get("sha256")
        kind = Kind(name, protocol.get("images", report.get("images")), protocol.get("sha256"), reference)
        record = by_solver.setdefault(solver, Record(file, solver, metrics.get(f"nfe/{solver}"), {}))
        record.distances[kind] = Estimate(value, spread.get(tag))
    return list(by_solver.values())
