"""An earlier run in the folder of a fit that begins afresh: it is put aside, with all that it left there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from ...callbacks.evaluation.report import FILES
from ...callbacks.training.checkpoint import PART
from ...networks.checkpoints.newest import checkpoints_in
from .locks import written
from .resume import fixed_folders

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


def put_aside(trainer: pl.Trainer, ckpt_path: str | None) -> None:
    """Move an earlier run in the folder of a fit to ``earlier/<number>`` there, before anything is written.

    Rank 0 does it for all, also before the processes are connected. A checkpoint in the run's own folder is
    of that run, which then goes on.

    Args:
        trainer: of the fit, which holds the folders.
        ckpt_path: checkpoint that it begins from, if there is one.
    """
    folders = {folder.resolve() for folder in fixed_folders(trainer)}
    goes_on = ckpt_path is not None and Path(ckpt_path).resolve().parent in folders
    if goes_on or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    checkpoints = sorted(file for folder in folders for file in checkpoints_in(folder))
    if not checkpoints:
        return
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
    where = " and ".join(str(place / EARLIER / number) for place in places)
    rank_zero_info(f"flowlit: starting afresh; the earlier run is in {where} now (--resume auto goes on)")


def _left(place: Path) -> Iterator[Path]:
    for pattern in LEFT:
        yield from sorted(place.glob(pattern))


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0
