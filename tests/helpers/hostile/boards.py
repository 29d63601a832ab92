"""Hostile arguments of what draws and logs."""

import functools
import itertools

from lightning.pytorch.loggers import CSVLogger

from flowlit.callbacks import (
    ExtraLogger,
    Interpolations,
    LossOverTime,
    NearestNeighbours,
    Progress,
    Throughput,
    Trajectories,
)
from flowlit.data import Digits

from .row import Row

COUNTS = [
    (Interpolations, "num"),
    (Interpolations, "steps"),
    (LossOverTime, "bins"),
    (functools.partial(NearestNeighbours, Digits(limit=20)), "num"),
    (functools.partial(NearestNeighbours, Digits(limit=20)), "k"),
    (Throughput, "batch_size"),
    (Trajectories, "num"),
    (Trajectories, "steps"),
    (Trajectories, "euler"),
]
BAD = (0, -1, 1.5, "4", True, None, float("nan"))

ROWS = [
    Row(
        f"{getattr(kind, 'func', kind).__name__}: {name} {value!r}",
        lambda folder, kind=kind, name=name, value=value: kind(**{name: value}),
        (name, "whole number", "> 0"),
    )
    for (kind, name), value in itertools.product(COUNTS, BAD)
]
ROWS += [
    Row(
        f"Progress: {name} {value!r}",
        lambda folder, name=name, value=value: Progress(**{name: value}),
        (name, "whole number", ">= 0"),
    )
    for name, value in itertools.product(("refresh_rate", "process_position"), BAD[1:])
]
ROWS += [
    Row(
        f"ExtraLogger: {name}",
        lambda folder, logger=logger: ExtraLogger(logger),
        ("ExtraLogger: logger is", "expected a logger"),
    )
    for name, logger in {
        "none": None,
        "true": True,
        "a word": "wandb",
        "a class": CSVLogger,
        "a list": [],
        "a mapping": {"class_path": "WandbLogger"},
    }.items()
]
