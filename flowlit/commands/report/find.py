"""The runs that folders mean: a run, those of a pipeline's root, or of several roots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._support.progress import Bar
from ...errors import FlowlitError
from .graph import in_order
from .stage import Stage, read_stage

DEPTH = 4
"""Folders inside each other in which runs are looked for."""

MOST = 1000
"""Runs of a page."""

SIGNS = ("stage.json", "config*.yaml", "metrics*.json", "events.out.tfevents.*", "training_cost.json")
"""Files of which a run's folder has one, at least."""


@dataclass
class Group:
    """Runs of one root."""

    name: str
    folder: Path
    stages: list[Stage]


def find_groups(places: Sequence[Path]) -> list[Group]:
    """Return the runs in folders, by their roots; each once, in the order of their needs.

    Raises:
        FlowlitError: if a folder does not exist, or holds no run.
    """
    folders: dict[Path, list[Path]] = {}
    for place in places:
        if not place.is_dir():
            what = "is a file" if place.exists() else "does not exist"
            raise FlowlitError(f"{place} {what}; expected the folder of a run, or of several")
        runs = _runs_in(place)
        if not runs:
            raise FlowlitError(
                f"{place} has no run in it; expected a folder that flowlit fit, validate or pipeline wrote "
                f"into, with one of {', '.join(SIGNS)}"
            )
        for run in runs:
            known = folders.setdefault(run.absolute().parent, [])
            if run.resolve() not in [other.resolve() for other in known]:
                known.append(run)
    count = sum(map(len, folders.values()))
    if count > MOST:
        raise FlowlitError(f"{count:,} runs are more than a page can show, {MOST:,}; name fewer folders")
    groups = []
    with Bar(total=count, desc="Reading runs", unit=" runs", delay=1.0, leave=False) as bar:
        for name, folder in zip(_short_names(list(folders)), folders, strict=True):
            stages = []
            for run in folders[folder]:
                stages.append(read_stage(run))
                bar.update()
            groups.append(Group(name, folder, in_order(folder, stages)))
    return groups


def group_of(root: Path) -> Group:
    """Return the runs that are directly in a root, without their event files."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[:1] != ".")
    except OSError:
        folders = []
    runs = [folder for folder in folders[:MOST] if _is_run(folder)]
    return Group(root.name, root, in_order(root, [read_stage(run, events=False) for run in runs]))


def _runs_in(folder: Path, depth: int = DEPTH) -> list[Path]:
    if _is_run(folder):
        return [folder]
    if not depth:
        return []
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:1] != ".")
    except OSError:
        return []
    return [run for path in inside for run in _runs_in(path, depth - 1)]


def _is_run(folder: Path) -> bool:
    try:
        if any(next(folder.glob(sign), None) for sign in SIGNS):
            return True
        return (folder / "manifest.json").is_file() and next(folder.glob("*.safetensors"), None) is not None
    except OSError:
        return False


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return the part of each path in which they differ; of a single one its last."""
    if len(folders) == 1:
        return [folders[0].name or str(folders[0])]
    common = Path(os.path.commonpath(folders))
    return [str(folder.relative_to(common)) if folder != common else folder.name for folder in folders]
