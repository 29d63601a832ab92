"""Lightning's Trainer with the verbs of the house."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ..callbacks.training.rollback import Rollback
from ..couplings.origins import From, make_origin
from ..couplings.store.encoding import X0, X1
from ..couplings.store.writer import Store
from ..errors import Diverged, FlowlitError
from ..modules import FlowDataModule, FlowModule
from ..modules.flow import check_rows
from ..networks.checkpoints.read import read_checkpoint
from ..solvers import RK45
from ..types import Solver
from .couple.options import CoupleOptions
from .couple.predict import PairPredictor, PartData, without_gradients
from .couple.writer import PairWriter
from .doctor.examine import examine
from .sweep import Sweep


class FlowTrainer(pl.Trainer):
    """Lightning's Trainer, and ``couple``, ``doctor`` and ``sweep``."""

    command: str | None = None
    """The verb at work, if Lightning does not know it."""

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
            train_dataloaders: not needed with a data module.
            val_dataloaders: not needed with a data module.
            datamodule: its data.
            ckpt_path: go on from this checkpoint (--resume auto finds the newest).
            weights_only: checkpoints are read as plain data unless this is false.
        """
        while True:
            try:
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
        num: int = 256,
    ) -> None:
        """Measure many solvers on the same noise: NFE against Fréchet distance and against error; a table,
        sweep.csv, sweep.png.

        Args:
            model: whose velocity is integrated.
            datamodule: whose noise it starts from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: checkpoints are read as plain data unless this is false.
            solvers: by name; the model's own if not given.
            exact: the solver that the others are compared with; RK45 with tolerance 1e-6 if not given.
            num: samples whose error is taken.
        """
        own = model.solvers
        model.solvers = solvers or model.solvers
        self.command = "sweep"
        watcher = Sweep(exact or RK45(1e-6, 1e-6), num)
        self.callbacks.append(watcher)  # type: ignore[attr-defined]
        try:
            self.validate(
                model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, verbose=False
            )
        finally:
            model.solvers = own
            self.command = None
            self.callbacks.remove(watcher)  # type: ignore[attr-defined]

    def doctor(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        store: str | None = None,
        num: int | None = None,
        seed: int | None = None,
        origin: From | None = None,
        labels: str | None = None,
        x0: X0 | None = None,
        x1: X1 | None = None,
        shard_size: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Look at what fit would do before hours are spent on it: files, memory, disk, time, and what is
        suspicious.

        Trains a copy for a few steps on one device and generates a few images; writes nothing. Fails if there
        is a problem.

        Args:
            model: which to train.
            datamodule: its data.
            ckpt_path: begin from this checkpoint, which is compared with the model.
            weights_only: taken so that the config.yaml of a fit serves here too; checkpoints are always read
                as plain data.
            store: with this, or any of the following, it is what couple would do with them.
            num: pairs in all.
            seed: of their noise.
            origin: noise, data or random.
            labels: file with their classes.
            x0: how noise is stored.
            x1: how data is stored.
            shard_size: pairs per file.
            batch_size: pairs solved at a time.
        """
        if weights_only is False:
            raise FlowlitError("doctor reads checkpoints as plain data only; drop --weights_only false")
        ends = {"x0": x0, "x1": x1, "shard_size": shard_size, "batch_size": batch_size}
        wanted = {"store": store, "num": num, "seed": seed, "origin": origin, "labels": labels, **ends}
        given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        report = examine(self, model, datamodule, ckpt_path, CoupleOptions(**given) if given else None)
        print(report.text, flush=True)
        if problems := report.problems:
            count = f"{len(problems)} problem{'s' * (len(problems) > 1)}; first"
            raise FlowlitError(f"doctor: {count}: {problems[0].what}")

    def couple(
        self,
        model: FlowModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        store: str = "data/couplings/pairs",
        num: int = 10_000,
        seed: int = 1,
        origin: From = "noise",
        labels: str | None = None,
        x0: X0 = "float16",
        x1: X1 = "float16",
        shard_size: int = 1000,
        batch_size: int = 500,
    ) -> None:
        """Make couplings: integrate the model with its first solver, and store the pairs.

        Goes on where an interrupted run stopped, and makes a finished store larger if ``num`` is; the files
        have the same bytes for any number of processes.

        Args:
            model: whose velocity makes the pairs.
            datamodule: its ``noise`` gives shape and number of classes, its ``coupling.images`` the data to
                start from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: taken so that the config.yaml of a fit serves here too; checkpoints are always read
                as plain data.
            store: folder for shards and manifest.
            num: pairs in all.
            seed: of their noise; differs from that of every other store and of evaluation.
            origin: start from noise, from data (the solver runs in reverse), or put both together at random.
            labels: file with the class of pair 0, 1, … (.npy, or text with one number a line); balanced if
                not given.
            x0: how noise is stored; "seed" stores none, and draws it again when read.
            x1: how data is stored; "uint8" has 256 levels in [-1, 1].
            shard_size: pairs per file.
            batch_size: pairs solved at a time.
        """
        if min(num, shard_size, batch_size) < 1:
            raise FlowlitError(f"couple: expected at least 1, found {num=}, {shard_size=}, {batch_size=}")
        if weights_only is False:
            raise FlowlitError("couple reads checkpoints as plain data only; drop --weights_only false")
        template = getattr(datamodule, "noise", None)
        if not isinstance(datamodule, FlowDataModule) or template is None:
            raise FlowlitError("couple needs the shape of the noise: give data.noise (shape, num_classes)")
        if ckpt_path is not None:  # before the writer notes whose pairs these are
            content = read_checkpoint(ckpt_path)
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
        check_rows(model.network, template.shape, template.num_classes, "data.noise")
        images = getattr(datamodule.coupling, "images", None)
        begin = make_origin(origin, template, num, seed, images, labels, model.codec)
        if begin.shape != template.shape:
            raise FlowlitError(
                f"couple: images of shape {begin.shape}, but data.noise.shape is {template.shape}; make "
                "them equal"
            )
        begin.check(x0, x1)
        facts = model.provenance()
        facts["solver"]["precision"] = str(self.precision)
        remarks = {"checkpoint": model.loaded_from(ckpt_path), "batch_size": batch_size}
        if origin == "random":
            facts = {"teacher": None, "solver": None}
            remarks = {}
        folder = Store(store)
        writer = PairWriter(folder, begin, num, shard_size, x0, x1, facts, remarks)
        self.callbacks.append(writer)  # type: ignore[attr-defined]
        try:
            with without_gradients(model):
                self.predict(
                    PairPredictor(model),
                    datamodule=PartData(begin, folder, batch_size),
                    return_predictions=False,
                )
        finally:
            self.callbacks.remove(writer)  # type: ignore[attr-defined]
