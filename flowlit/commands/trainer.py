"""Lightning's Trainer with the commands that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from .._engine.checkpoint_files import keep_own_checkpoints
from ..callbacks.training.rollback import Rollback
from ..couplings.origins import From
from ..couplings.store.encoding import X0, X1
from ..errors import Diverged
from ..modules import FlowModule
from ..ranges import Float, PositiveInt, Seed
from ..types import Solver
from ._line.earlier import taking_back
from ._line.limits import check_end, check_run, checked_numbers, is_endless
from ._line.locks import OneWriter, one_writer
from .couple import CoupleOptions, couple
from .doctor import doctor
from .sweep import sweep


class FlowTrainer(OneWriter):
    """Lightning's Trainer, and ``couple``, ``doctor`` and ``sweep``."""

    command: str | None = None  # at work, if it is none of Lightning's; see ``running``
    gpus: tuple[str, ...] = ()  # for which ``doctor`` estimates, too
    untrained: bool = False  # fresh weights are meant, and no problem for ``doctor``

    def __init__(self, *arguments: Any, **named: Any):
        self.endless = is_endless(named)
        named |= checked_numbers(named)
        super().__init__(*arguments, **named)
        check_run(self)
        keep_own_checkpoints(self)

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Have reports and dashboards name a command that runs one of Lightning's, such as ``validate``."""
        self.command = command
        try:
            yield
        finally:
            self.command = None

    @one_writer
    def fit(
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train; with a ``Rollback`` among the callbacks, go back to a good checkpoint when it goes wrong.

        Args:
            model: which to train.
            train_dataloaders, val_dataloaders: not needed with a data module.
            datamodule: its data.
            ckpt_path: go on from this checkpoint (--resume auto finds the newest).
            weights_only: checkpoints are read as plain data unless this is false.
        """
        while True:
            try:
                with taking_back(self.moved):
                    check_end(self)
                    return super().fit(
                        model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only
                    )
            except Diverged as trouble:
                rollback = next((c for c in self.callbacks if isinstance(c, Rollback)), None)  # type: ignore[attr-defined]
                if rollback is None:
                    raise
                ckpt_path = rollback.back(self, trouble)
                weights_only = True

    def sweep(
        self,
        model: FlowModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        solvers: dict[str, Solver] | None = None,
        exact: Solver | None = None,
        num: PositiveInt = 256,
    ) -> None:
        """Measure many solvers on the same noise, NFE against distance and error: sweep.csv and sweep.png.

        Args:
            model: whose velocity is integrated.
            datamodule: whose noise it starts from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: checkpoints are read as plain data unless this is false.
            solvers: by name; the model's own if not given.
            exact: the solver that the others are compared with; RK45 with tolerance 1e-6 if not given.
            num: samples whose error is taken.
        """
        sweep(self, model, datamodule, ckpt_path, weights_only, solvers, exact, num)

    def doctor(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        store: str | None = None,
        num: PositiveInt | None = None,
        seed: Seed | None = None,
        origin: From | None = None,
        labels: str | None = None,
        x0: X0 | None = None,
        x1: X1 | None = None,
        shard_size: PositiveInt | None = None,
        batch_size: PositiveInt | None = None,
        times: list[Float] | None = None,
    ) -> None:
        """Examine what fit, or a recipe, would do, before hours are spent: files, memory, time, settings.

        Trains a copy for a few steps on one device and generates a few images; writes nothing. Fails if there
        is a problem. Classes of your own are built only with --trust.

        Args:
            model: which to train.
            datamodule: its data.
            ckpt_path: begin from this checkpoint, which is compared with the model.
            weights_only: as in the config.yaml of a fit; checkpoints are always read as plain data.
            store: with this, or any of the following, it is what couple would do with them.
            num: pairs in all.
            seed: of their noise.
            origin: noise, data or random.
            labels: file with their classes.
            x0: how noise is stored.
            x1: how data is stored.
            shard_size: pairs per file.
            batch_size: pairs solved at a time.
            times: of the solver's states that are kept, too.
        """
        pairs = {"store": store, "num": num, "seed": seed, "origin": origin, "labels": labels, "times": times}
        files = {"x0": x0, "x1": x1, "shard_size": shard_size, "batch_size": batch_size}
        options = CoupleOptions.if_given(**pairs, **files)
        doctor(self, model, datamodule, ckpt_path, weights_only, options, self.gpus)

    def couple(
        self,
        model: FlowModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        **options: Any,
    ) -> None:
        """Make couplings: integrate the model with its first solver, and store the pairs.

        Goes on where an interrupted run stopped, and makes a finished store larger if ``num`` is; the files
        have the same bytes for any number of processes.

        Args:
            model: whose velocity makes the pairs.
            datamodule: its ``noise`` gives shape and number of classes, its ``coupling.images`` the data to
                start from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: as in the config.yaml of a fit; checkpoints are always read as plain data.
            options: those of ``CoupleOptions``.
        """
        couple(self, model, datamodule, ckpt_path, weights_only, CoupleOptions(**options))
