"""``flowlit sweep``: quality of many solvers against their cost."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torchmetrics import MeanMetric

from ..._support.batch_invariance import BatchInvariant
from ..._support.files import write_atomically
from ..._support.nested import rows_of
from ...callbacks.evaluation.base import Evaluation, numbers, protocols
from ...callbacks.evaluation.grids import check_noise
from ...callbacks.evaluation.pictures import file_for, show_figure
from ...errors import FlowlitError
from ...modules import FlowModule
from ...ranges import PositiveInt
from ...solvers import RK45, Guided
from ...types import Noise, Solver
from .plot import plot
from .rows import as_csv, sweep_rows


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
    """Validate a model with other solvers than its own, and with ``Sweep`` among the callbacks.

    Raises:
        FlowlitError: for an exact solver that is guided.
    """
    if isinstance(exact, Guided):
        raise FlowlitError(
            f"sweep: exact is {exact!r}; expected the solver inside alone: each solver is compared with the "
            "exact flow under its own guidance"
        )
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
    what the exact solver finds from the same noise, under the same guidance. Its spread is the standard error
    over the samples.

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
        ends: dict[str, Tensor] = {}
        for name, solution in outputs["solutions"].items():
            exact = self._exact_of(module.solvers[name])
            if repr(exact) not in ends:
                ends[repr(exact)] = self._end(exact, module, noise)
            error = (solution.x1[mine] - ends[repr(exact)]).flatten(1).double()
            square = error.square().mean(1)
            self._squares[name].update(square.float())
            self._fourths[name].update(square.square().float())

    def _exact_of(self, solver: Solver) -> Solver:
        """Return the exact solver of the flow that a solver follows: of the same guidance."""
        return solver.like(self.exact) if isinstance(solver, Guided) else self.exact

    def _end(self, exact: Solver, module: Any, noise: Noise) -> Tensor:
        """Return the exact ends (B, C, H, W); not under autocast: the solver would fight its rounding."""
        return exact(BatchInvariant(module.velocity()), noise.x0, noise.cond).x1

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
