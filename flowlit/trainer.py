"""Lightning's Trainer with the verbs of the house."""

from __future__ import annotations

import lightning.pytorch as pl

from .callbacks.pairs import PairWriter
from .callbacks.sweep import Sweep
from .couplings.origins import From, make_origin
from .couplings.rounding import X0, X1
from .couplings.store import Store
from .datamodule import FlowDataModule, PartData
from .modules.base import FlowModule
from .modules.pairs import PairMaker, without_gradients
from .networks.files import read_checkpoint
from .solvers import RK45
from .types import FlowlitError, Solver


class FlowTrainer(pl.Trainer):
    """Lightning's Trainer, and ``couple`` and ``sweep``."""

    command: str | None = None
    """The verb at work, if Lightning does not know it."""

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
        """Measure many solvers on the same noise: NFE against Fréchet distance and against error; a table, sweep.csv, sweep.png.

        Args:
            model: whose velocity is integrated.
            datamodule: whose noise it starts from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: checkpoints are read as plain data unless this is false.
            solvers: by name; the model's own if not given.
            exact: the solver that the others are compared with; RK45 with tolerance 1e-6 if not given.
            num: samples whose error is taken.
        """
        own, model.solvers, self.command = model.solvers, solvers or model.solvers, "sweep"
        watcher = Sweep(exact or RK45(1e-6, 1e-6), num)
        self.callbacks.append(watcher)  # type: ignore[attr-defined]
        try:
            self.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, verbose=False)
        finally:
            model.solvers, self.command = own, None
            self.callbacks.remove(watcher)  # type: ignore[attr-defined]

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

        Goes on where an interrupted run stopped, and makes a finished store larger if ``num`` is; the files have the same
        bytes for any number of processes.

        Args:
            model: whose velocity makes the pairs.
            datamodule: its ``noise`` gives shape and number of classes, its ``coupling.images`` the data to start from.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: taken so that the config.yaml of a fit serves here too; checkpoints are always read as plain data.
            store: folder for shards and manifest.
            num: pairs in all.
            seed: of their noise; differs from that of every other store and of evaluation.
            origin: start from noise, from data (the solver runs in reverse), or put both together at random.
            labels: file with the class of pair 0, 1, … (.npy, or text with one number a line); balanced if not given.
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
        model.check_rows(template.shape, template.num_classes, "data.noise")
        begin = make_origin(origin, template, num, seed, getattr(datamodule.coupling, "images", None), labels)
        if begin.shape != template.shape:
            raise FlowlitError(
                f"couple: images of shape {begin.shape}, but data.noise.shape is {template.shape}; make them equal"
            )
        if origin == "data" and x0 == "seed":
            raise FlowlitError("couple: noise that the flow finds from data has no seed; store it: --x0 float16")
        facts = model.provenance()
        facts["solver"]["precision"] = str(self.precision)
        remarks = {"checkpoint": model.loaded_from(ckpt_path), "batch_size": batch_size}
        if origin == "random":
            facts, remarks = {"teacher": None, "solver": None}, {}
        folder = Store(store)
        writer = PairWriter(folder, begin, num, shard_size, x0, x1, facts, remarks)
        self.callbacks.append(writer)  # type: ignore[attr-defined]
        try:
            with without_gradients(model):
                self.predict(PairMaker(model), datamodule=PartData(begin, folder, batch_size), return_predictions=False)
        finally:
            self.callbacks.remove(writer)  # type: ignore[attr-defined]
