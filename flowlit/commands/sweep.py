"""``flowlit sweep``: quality of many solvers against their cost."""

from __future__ import annotations

import csv
import io
from typing import Any

import lightning.pytorch as pl
from torchmetrics import MeanMetric

from .._support.batch_invariance import BatchInvariant
from .._support.files import write_atomically
from .._support.formatting import in_figure
from .._support.nested import rows_of
from ..callbacks.evaluation.base import Evaluation, numbers
from ..callbacks.evaluation.grids import check_noise
from ..callbacks.evaluation.pictures import file_for, show_figure
from ..modules import FlowModule
from ..ranges import PositiveInt
from ..solvers import RK45
from ..types import Solver


def sweep(
    trainer: pl.Trainer,
    model: FlowModule,
    datamodule: pl.LightningDataModule | None,
    ckpt_path: str | None,
    weights_only: bool | None,
    solvers: dict[str, Solver] | None,
    exact: Solver | None,
    num: int,
) -> None:
    """Validate a model with other solvers than its own, and with ``Sweep`` among the callbacks."""
    own = model.solvers
    model.solvers = own if solvers is None else solvers
    callback = Sweep(exact or RK45(1e-6, 1e-6), num)
    trainer.callbacks.append(callback)  # type: ignore[attr-defined]
    running = trainer.running("sweep")  # type: ignore[attr-defined]
    try:
        with running:
            trainer.validate(
                model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only, verbose=False
            )
    finally:
        model.solvers = own
        trainer.callbacks.remove(callback)  # type: ignore[attr-defined]


class Sweep(Evaluation):
    """Log ``endpoint_error/<solver>``, how far each solver ends from the exact flow; write sweep.csv and
    sweep.png at the end.

    The error is the root mean square over pixels and samples of x1 - x1*, in units of [-1, 1], where x1* is
    what the exact solver finds from the same noise.

    Args:
        exact: a solver so fine that its own error does not matter.
        num: samples whose error is taken, on all devices together; the exact solver may be slow.
    """

    def __init__(self, exact: Solver, num: PositiveInt = 256):
        self.exact = exact
        self.num = num
        self._squares: dict[str, MeanMetric] = {}
        self._nfe: dict[str, MeanMetric] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        check_noise(trainer, stage, "Sweep", self.num)
        self.watch(trainer, self.num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._squares = {name: MeanMetric().to(module.device) for name in module.solvers}
        self._nfe = {name: MeanMetric().to(module.device) for name in module.solvers}

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        for name, solution in outputs["solutions"].items():
            self._nfe[name].update(solution.nfe.float())
        mine = outputs["noise"].index < self.num
        if not mine.any():
            return
        noise = rows_of(outputs["noise"], mine)
        # not autocast: an exact solver would fight the rounding
        target = self.exact(BatchInvariant(module.velocity()), noise.x0, noise.cond).x1
        for name, solution in outputs["solutions"].items():
            error = (solution.x1[mine] - target).flatten(1).double()
            self._squares[name].update(error.square().mean(1).float())

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        for name, squares in self._squares.items():
            module.log(f"endpoint_error/{name}", squares.compute().sqrt(), rank_zero_only=True)
            if f"nfe/{name}" not in numbers(trainer):  # no callback has counted it from all samples
                module.log(f"nfe/{name}", self._nfe[name].compute(), rank_zero_only=True)

    def protocol(self) -> dict[str, Any]:
        return {"endpoint_error": {"exact": repr(self.exact), "samples": self.num}}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        path = file_for(trainer, "sweep.csv")
        rows = sweep_rows(numbers(trainer), pl_module.solvers)
        show_figure(trainer, "sweep", lambda: plot(rows))
        if path is not None:
            write_atomically(path, as_csv(rows).encode())
            print(f"\n{path}  {path.with_suffix('.png')}", flush=True)


def sweep_rows(metrics: dict[str, float], solvers: dict[str, Solver]) -> list[dict[str, Any]]:
    """Return a row for each solver, by its NFE, of every number whose tag ends in its name."""
    rows = []
    for name, solver in solvers.items():
        own = {
            tag.removesuffix(f"/{name}"): value for tag, value in metrics.items() if tag.endswith(f"/{name}")
        }
        rows.append({"solver": name, "family": type(solver).__name__, **dict(sorted(own.items()))})
    return sorted(rows, key=lambda row: row.get("nfe", 0.0))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as comma-separated values, with a header."""
    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(rows: list[dict[str, Any]]) -> Any:
    """Draw every distance and error against NFE, one line for each family of solvers."""
    from matplotlib.figure import Figure

    distances = [key for key in rows[0] if key.startswith(("fid", "frechet_")) and not key.endswith("_half")]
    names = [*distances, "endpoint_error"]
    figure = Figure(figsize=(6 * len(names), 4.5), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for family in dict.fromkeys(row["family"] for row in rows):
            points = [
                (row["nfe"], row[name], row["solver"])
                for row in rows
                if row["family"] == family and name in row
            ]
            axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=in_figure(family))
            for x, y, label in points:
                axes.annotate(in_figure(label), (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
        shown = in_figure(name)
        axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel=shown, title=f"{shown} against NFE")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
