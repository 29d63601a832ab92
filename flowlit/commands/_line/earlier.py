"""An earlier run in the folder of a fit that begins afresh: it is put aside, with all that it left there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from ...callbacks.evaluation.report import FILES
from ...callbacks.training.checkpoint import PART
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


def put_aside(trainer: pl.Trainer, ckpt_path: str | None) -> Moves:
    """Move an earlier run in the folder of a fit to ``earlier/<number>`` there, before anything is written.

    Rank 0 does it for all, also before the processes are connected. A checkpoint in the run's own folder is
    of that run, which then goes on.

    Args:
        trainer: of the fit, which holds the folders.
        ckpt_path: checkpoint that it begins from, if there is one.

    Returns:
        what was moved, for ``take_back``.
    """
    folders = {folder.resolve() for folder in fixed_folders(trainer)}
    goes_on = ckpt_path is not None and Path(ckpt_path).resolve().parent in folders
    if goes_on or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return []
    checkpoints = sorted(file for folder in folders for file in checkpoints_in(folder))
    if not checkpoints:
        return []
    moves: Moves = []
    parts = [folder / PART for folder in folders if (folder / PART).exists()]
    places = list(written(trainer, "fit"))
    places += sorted(f for f in folders if not any(f.is_relative_to(place) for place in places))
    taken = [_number(path) for place in places for path in place.glob(f"{EARLIER}/*")]
    number = str(1 + max(taken, default=0))
    for place in places:
        here = [file for file in (*parts, *checkpoints) if file.is_relative_to(place)]
        for path in (*_left(place), *here):  # checkpoints last: without them there is no earlier run
            target = place / EARLIER / number / path.relative_to(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            moves.append((path, target))
    where = " and ".join(str(place / EARLIER / number) for place in places)
    rank_zero_info(f"flowlit: starting afresh; the earlier run is in {where} now (--resume auto goes on)")
    return moves


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
    for path, target in reversed(moves):
        if not path.is_dir():
            target.replace(path)
    left = {target.parent for _, target in moves}
    for folder in sorted(left | {each.parent for each in left}, reverse=True):
        with suppress(OSError):  # others are in it
            folder.rmdir()
    rank_zero_info("flowlit: nothing was trained; the earlier run is in its place again")


def _left(place: Path) -> Iterator[Path]:
    for pattern in LEFT:
        yield from sorted(place.glob(pattern))


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0
