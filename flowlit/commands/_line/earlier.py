"""An earlier run in the folder of a fit that begins afresh: it is put aside, with all that it left there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from ..._support.files import write_atomically
from ...callbacks.training.checkpoint import PART
from ...errors import FlowlitError
from ...metrics.report import FILES
from ...metrics.training_cost import FILE
from ...networks.checkpoints.newest import checkpoints_in
from .locks import written
from .resume import fixed_folders

Moves = list[tuple[Path, Path]]
"""Old and new places."""

EARLIER = "earlier"
"""Folder for earlier runs within that of a run, which have the numbers 1, 2, …"""

LEFT = (
    "events.out.tfevents.*",
    "hparams.yaml",
    "config.yaml",
    *(f"config_{command}.yaml" for command in ("validate", "test", "predict", "couple", "sweep")),
    "metrics.csv",
    *FILES.values(),
    FILE,
    "sweep.*",
    "snapshots",
    "samples",
    "curves",
    "trajectories",
    "interpolations",
    "neighbours",
)
"""What a run, and evaluations of it, leave in its folder beside checkpoints.

Features of generated images stay: they have the hash of their weights.
"""


def put_aside(trainer: pl.Trainer, ckpt_path: str | None, config: Any = MappingProxyType({})) -> Moves:
    """Move an earlier run in the folder of a fit to ``earlier/<number>`` there, before anything is written.

    Rank 0 does it for all, also before the processes are connected. A checkpoint in the run's own folder is
    of that run, which then goes on.

    Args:
        trainer: of the fit, which holds the folders.
        ckpt_path: checkpoint that it begins from, if there is one.
        config: of the fit.

    Returns:
        what was moved, for ``take_back``.

    Raises:
        FlowlitError: if model or data are read from the earlier run.
    """
    folders = {folder.resolve() for folder in fixed_folders(trainer)}
    goes_on = ckpt_path is not None and Path(ckpt_path).resolve().parent in folders
    if goes_on or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return []
    checkpoints = sorted(file for folder in folders for file in checkpoints_in(folder))
    if not checkpoints:
        return []
    parts = [folder / PART for folder in folders if (folder / PART).exists()]
    places = list(written(trainer, "fit"))
    places += sorted(f for f in folders if not any(f.is_relative_to(place) for place in places))
    taken = [_number(path) for place in places for path in place.glob(f"{EARLIER}/*")]
    number = str(1 + max(taken, default=0))
    moves: Moves = []
    for place in places:
        here = [file for file in (*parts, *checkpoints) if file.is_relative_to(place)]
        files = (*_left(place), *here)  # checkpoints last: without them there is no earlier run
        moves += [(path, place / EARLIER / number / path.relative_to(place)) for path in files]
    _check_not_read([path for path, _ in moves], [config.get(part) for part in ("model", "data")])
    _move(moves)
    where = " and ".join(str(place / EARLIER / number) for place in places)
    rank_zero_info(f"flowlit: starting afresh; the earlier run is in {where} now (--resume auto goes on)")
    return moves


def _move(moves: Moves) -> None:
    """Move all, or nothing."""
    done: Moves = []
    try:
        for path, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            done.append((path, target))
            # other ranks may have it on their command line, and read it later; it is written anew
            copies = path.name == "config.yaml"
            write_atomically(target, path.read_bytes()) if copies else path.rename(target)
    except BaseException:
        _undo(done)
        raise


def _check_not_read(files: Iterable[Path], config: Any) -> None:
    """Refuse to move what other ranks have still to read, and what a run that goes on would read again."""
    for name in _texts(config):
        path = Path(name.removeprefix("file://")).absolute()
        with suppress(OSError, ValueError):  # a text that is no path
            resolved = path.resolve()
            if any(resolved.is_relative_to(file.resolve()) for file in files):
                raise FlowlitError(
                    f"{name} is of the earlier run in this folder, which a fit that starts afresh puts "
                    "aside; choose another folder (--vars.root), or copy the file elsewhere and name that"
                )


def _texts(node: Any) -> Iterator[str]:
    node = node.as_dict() if isinstance(node, Namespace) else node
    if isinstance(node, str):
        yield node
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, (dict, list)) else ():
        yield from _texts(child)


@contextmanager
def taking_back(moves: Moves) -> Iterator[None]:
    """Move an earlier run back if what is done here fails before there is a checkpoint."""
    try:
        yield
    except BaseException:
        take_back(moves)
        raise


def take_back(moves: Moves) -> None:
    """Move an earlier run back after a fit that failed before it had a checkpoint of its own."""
    folders = {path.parent for path, _ in moves if path.suffix == ".ckpt"}
    if not moves or any(checkpoints_in(folder) for folder in folders):
        return
    _undo(moves)
    rank_zero_info("flowlit: nothing was trained; the earlier run is in its place again")


def _undo(moves: Moves) -> None:
    for path, target in reversed(moves):
        if target.exists() and not path.is_dir():
            target.replace(path)
    left = {target.parent for _, target in moves}
    for folder in sorted(left | {each.parent for each in left}, reverse=True):
        with suppress(OSError):  # others are in it
            folder.rmdir()


def _left(place: Path) -> Iterator[Path]:
    for pattern in LEFT:
        yield from sorted(place.glob(pattern))


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0
