"""``flowlit sweep``: quality of many solvers against their cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import lightning.pytorch as pl
from torchmetrics import MeanMetric

from .._support.batch_invariance import BatchInvariant
from .._support.files import write_atomically
from .._support.formatting import in_figure
from .._support.nested import rows_of
from ..callbacks.evaluation.base import Evaluation, numbers, protocols
from ..callbacks.evaluation.grids import check_noise
from ..callbacks.evaluation.pictures import file_for, show_figure
from ..metrics.report import distance_features
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
    what the exact solver finds from the same noise. Its spread is the standard error over the samples.

    Args:
        exact: a solver so fine that its own error does not matter.
        num: samples whose error is taken, on all devices together; the exact solver may be slow.
    """

    def __init__(self, exact: Solver, num: PositiveInt = 256):
        self.exact = exact
        self.num = num
        self._squares: dict[str, MeanMetric] = {}
        self._fourths: dict[str, MeanMetric] = {}
        self._spread: dict[str, float] = {}
        self._nfe: dict[str, MeanMetric] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        check_noise(trainer, stage, "Sweep", self.num)
        self.watch(trainer, self.num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        self._squares = {name: MeanMetric().to(module.device) for name in module.solvers}
        self._fourths = {name: MeanMetric().to(module.device) for name in module.solvers}
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
            square = error.square().mean(1)
            self._squares[name].update(square.float())
            self._fourths[name].update(square.square().float())

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        for name, squares in self._squares.items():
            square = squares.compute()
            module.log(f"endpoint_error/{name}", square.sqrt(), rank_zero_only=True)
            variance = float(self._fourths[name].compute().double() - square.double() ** 2)
            if square > 0 and self.num > 1:
                error = (max(variance, 0.0) / (self.num - 1)) ** 0.5 / float(2 * square.sqrt())
                self._spread[f"endpoint_error/{name}"] = error
            if f"nfe/{name}" not in numbers(trainer):  # no callback has counted it from all samples
                module.log(f"nfe/{name}", self._nfe[name].compute(), rank_zero_only=True)

    def protocol(self) -> dict[str, Any]:
        return {"endpoint_error": {"exact": repr(self.exact), "samples": self.num}, "spread": self._spread}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        path = file_for(trainer, "sweep.csv")
        rows = sweep_rows(numbers(trainer), protocols(trainer).get("spread", {}), pl_module.solvers)
        show_figure(trainer, "sweep", lambda: plot(rows))
        if path is not None:
            write_atomically(path, as_csv(rows).encode())
            print(f"\n{path}  {path.with_suffix('.png')}", flush=True)


def sweep_rows(
    metrics: Mapping[str, float], spread: Mapping[str, float], solvers: Mapping[str, Solver]
) -> list[dict[str, Any]]:
    """Return a row for each solver, by its NFE, of each number whose tag ends in its name, and its spread."""
    rows = []
    for name, solver in solvers.items():
        own = {
            tag.removesuffix(f"/{name}"): value for tag, value in metrics.items() if tag.endswith(f"/{name}")
        }
        spreads = {f"{key}_spread": spread[f"{key}/{name}"] for key in own if f"{key}/{name}" in spread}
        numbers_of = dict(sorted({**own, **spreads}.items()))
        rows.append({"solver": name, "family": family(solver), **numbers_of})
    return sorted(rows, key=lambda row: row.get("nfe", 0.0))


COSTS = ("steps", "evaluations", "rtol", "atol", "times")
"""Settings of a solver by which the members of a family differ in their cost."""


LONG = 40
"""Signs of a setting from which on its class stands for it."""

NAMED = 16
"""Solvers at most whose points in the figure have names."""


def family(solver: Solver) -> str:
    """Return the class of a solver with those settings that differ from its defaults, but not the costs.

    >>> from flowlit.solvers import DPMSolver, Heun
    >>> family(Heun(3)), family(DPMSolver(8, order=2))
    ('Heun', 'DPMSolver(order=2)')
    """
    kind = type(solver).__name__
    if not is_dataclass(solver):
        return kind
    values = {field.name: (getattr(solver, field.name), field.default) for field in fields(solver)}
    others = [
        f"{name}={repr(value) if len(repr(value)) < LONG else type(value).__name__}"
        for name, (value, default) in values.items()
        if name not in COSTS and default is not MISSING and value != default
    ]
    return f"{kind}({', '.join(others)})" if others else kind


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as comma-separated values, with a header."""
    text = io.StringIO()
    header = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(rows: list[dict[str, Any]]) -> Any:
    """Draw every distance and error against NFE with its spread, one line for each family of solvers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    keys = dict.fromkeys(key for row in rows for key in row if not key.endswith("_spread"))
    names = [*filter(distance_features, keys), "endpoint_error"]
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(6 * len(names) + 3, 4.5 + 0.12 * len(families)), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, each in enumerate(families):
            points = [row for row in rows if row["family"] == each and name in row and row["nfe"] > 0]
            axes.errorbar(
                [row["nfe"] for row in points],
                [row[name] for row in points],
                [row.get(f"{name}_spread", 0.0) for row in points],
                color=f"C{place % 10}",
                marker="osD^v"[place // 10 % 5],
                markersize=4,
                capsize=2,
                label=in_figure(each),
            )
            for row in points if len(rows) <= NAMED else []:
                axes.annotate(
                    in_figure(row["solver"]),
                    (row["nfe"], row[name]),
                    fontsize=7,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
        shown = in_figure(name)
        axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel=shown, title=f"{shown} against NFE")
        axes.xaxis.set_major_locator(LogLocator(2))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure
