"""A second place to log to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ..._engine.lightning import name_run
from ...errors import FlowlitError
from ...ranges import Checked


class ExtraLogger(Checked, Callback):
    """Log to one more place than ``trainer.logger``, which goes on to give the run its folder.

    Weights & Biases and MLflow are given numbers, settings and pictures, and the run's folder as its name
    unless it has one. Where the trainer logs nothing (``--trainer.logger false``), nothing is logged here.

    Args:
        logger: any of Lightning's.
    """

    def __init__(self, logger: Logger):
        if not isinstance(logger, Logger):
            raise FlowlitError(
                f"ExtraLogger: logger is {logger!r}; expected a logger of Lightning's, e.g. WandbLogger()"
            )
        self.logger = logger

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        folder = trainer.log_dir  # on every rank, for it is broadcast
        silent = not trainer.loggers or trainer.fast_dev_run  # type: ignore[attr-defined]
        if silent or self.logger in trainer.loggers:
            return
        name_run(self.logger, str(Path(folder or ".")))
        trainer.loggers = [*trainer.loggers, self.logger]
