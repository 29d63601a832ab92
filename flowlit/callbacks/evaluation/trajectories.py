"""Pictures of noise on its way to an image."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from ..._support.batch_invariance import BatchInvariant
from ...metrics.geometry import snapshots
from ...ranges import PositiveInt
from .base import Evaluation
from .grids import check_noise, first_noises
from .pictures import show


class Trajectories(Evaluation):
    """Draw trajectories of the first noises of validation, one a row: states, and where they would arrive.

    ``trajectories/x_t`` is the state at t = 0, 1/steps, …, 1, ``trajectories/endpoint`` the prediction x_t +
    (1 - t) v(x_t, t); of a straight flow all predictions in a row are equal. Images in the loggers, and PNG
    files in the run's folder. Meaningless for a one-step student, whose velocity is trained at t = 0 only.

    Args:
        num: rows.
        steps: pictures in a row, less one.
        euler: at least so many Euler steps in all.
    """

    def __init__(self, num: PositiveInt = 8, steps: PositiveInt = 8, euler: PositiveInt = 100):
        self.num = num
        self.steps = steps
        self.euler = euler

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_noise(trainer, stage, "Trajectories", self.num)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        noise = first_noises(trainer, module, self.num)
        with trainer.precision_plugin.val_step_context():
            velocity = BatchInvariant(module.velocity())
            states = snapshots(velocity, noise.x0, noise.cond, self.steps, self.euler)
        for name, pictures in states._asdict().items():
            images = module.codec.decode(pictures.flatten(0, 1))
            show(trainer, f"trajectories/{name}", images, self.steps + 1)
