"""Jacobians of a flow in validation: how far it is from a gradient, and how many dimensions the data have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..._support.files import write_atomically
from ...errors import FlowlitError
from ...metrics.conservativity import Estimates, Jacobian, MeanJacobian, jacobian
from ...ranges import PositiveInt, Share
from ...solvers import Heun
from ...solvers.grids import Given
from ...types import Noise, VelocityField
from .base import Evaluation
from .grids import check_noise, first_noises, in_parts
from .pictures import file_for, show_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


class Conservativity(Evaluation):
    """Log the antisymmetric part of the velocity's Jacobian and the intrinsic dimension of data, over t.

    ``antisymmetric_share/t0.5`` is ‖J - Jᵀ‖² / 4 ‖J‖² at t = 0.5, 0 for the gradient of a potential and 1
    for a rotation. ``dimension_trace/t0.5`` is t tr(I + (1 - t) J), and ``dimension_spectrum/t0.5`` the
    number of singular values of t (I + (1 - t) J) above ½: read both where they are level over t. States are
    those of the flow from the first noises of validation. ``curves/conservativity`` shows all with their
    standard errors over samples, as a picture in the loggers, a PNG and a CSV; the ``Report`` has them, too.

    A reflowed velocity need not be a gradient, and sampling needs none: it is a diagnosis. Meaningless for a
    one-step student. At each time it costs ``probes`` and ``most`` forward and backward derivatives of every
    sample, outside autocast; attention computes by matrix products meanwhile.

    Args:
        times: where to look, between 0 and 1; None is eight times, most of them near the data.
        num: samples, over all ranks, at least 2.
        probes: random vectors for each sample, for the share and the trace.
        most: singular values, at most; with more dimensions than these the spectrum's count ends there.
        steps: of Heun's rule from noise to data, at least.
    """

    def __init__(
        self,
        times: list[Share] | None = None,
        num: PositiveInt = 16,
        probes: PositiveInt = 4,
        most: PositiveInt = 64,
        steps: PositiveInt = 20,
    ):
        self.times = sorted(set(TIMES if times is None else times))
        self.num = num
        self.probes = probes
        self.most = most
        self.steps = steps
        self._facts: dict[str, Any] = {}

    def protocol(self) -> dict[str, Any]:
        return {"conservativity": self._facts} if self._facts else {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not self.times or not 0 < self.times[0] <= self.times[-1] < 1 or self.num < 2:
            raise FlowlitError(
                f"Conservativity: times are {self.times} and num is {self.num}; expected times between 0 "
                "and 1, and two samples for a standard error"
            )
        check_noise(trainer, stage, "Conservativity", 2)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        num = min(self.num, len(trainer.datamodule.noise))  # type: ignore[attr-defined]
        estimates = self._estimate(trainer, module, num)
        columns = {name: column.tolist() for name, column in estimates._asdict().items()}
        self._facts = {"samples": num, "probes": self.probes, "most": self.most, "t": self.times, **columns}
        for name, column in {
            "antisymmetric_share": estimates.share,
            "dimension_trace": estimates.trace,
            "dimension_spectrum": estimates.spectrum,
        }.items():
            for t, value in zip(self.times, column, strict=True):
                module.log(f"{name}/t{t:.3g}", value.float(), rank_zero_only=True)
        show_figure(trainer, "curves/conservativity", lambda: draw(self.times, estimates))
        path = file_for(trainer, "curves/conservativity.csv")
        if path is not None:
            write_atomically(path, as_csv(self.times, columns).encode())

    def _estimate(self, trainer: pl.Trainer, module: Any, num: int) -> Estimates:
        """Return estimates over the first noises, of all ranks."""
        mean = MeanJacobian(len(self.times)).to(module.device)
        draws = torch.Generator().manual_seed(trainer.global_rank)
        noise = first_noises(trainer, module, num, stripe=True)
        for part in in_parts(trainer, noise):
            for place, rows in enumerate(self._look(module.velocity(), part, draws)):
                mean.update(place, rows)
        return Estimates(*(column.reshape(-1) for column in mean.compute()))  # torchmetrics squeezes one time

    def _look(self, velocity: VelocityField, noise: Noise, draws: torch.Generator) -> list[Jacobian]:
        """Return what is measured of some samples at each time."""
        words: dict[str, Any] = {"probes": self.probes, "most": self.most, "generator": draws}
        # tensors that were made for inference alone have no derivatives
        with torch.inference_mode(False), torch.no_grad():
            noise = tree_map(torch.clone, noise)
            x = states(velocity, noise, self.times, self.steps)
            pairs = zip(x, self.times, strict=True)
            return [jacobian(velocity, x_t, t, noise.cond, **words) for x_t, t in pairs]


def states(velocity: VelocityField, noise: Noise, times: list[float], steps: int) -> list[Tensor]:
    """Return the states (B, C, H, W) of a flow at increasing times between 0 and 1."""
    grid = sorted({k / steps for k in range(steps + 1)} | set(times))
    seen: list[Tensor] = []
    solver = Heun(len(grid) - 1, grid=Given(grid))
    solver(velocity, noise.x0, noise.cond, observe=lambda t, x, v: seen.append(x))
    return [seen[grid.index(time)] for time in times]


def draw(times: list[float], estimates: Estimates) -> Figure:
    """Draw share and dimensions over t with their standard errors, side by side, 800×320 pixels."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = {"marker": "o", "markersize": 3, "capsize": 2}
    left.errorbar(times, estimates.share.tolist(), estimates.share_error.tolist(), **bars)
    left.set(title="antisymmetric share of the Jacobian", xlabel="t (noise 0, data 1)", xlim=(0, 1))
    left.set_ylim(bottom=0)
    pairs = {
        "t tr(I + (1 - t) J)": (estimates.trace, estimates.trace_error),
        "singular values above ½": (estimates.spectrum, estimates.spectrum_error),
    }
    for name, (values, errors) in pairs.items():
        right.errorbar(times, values.tolist(), errors.tolist(), label=name, **bars)
    right.set(title="intrinsic dimension", xlabel="t (noise 0, data 1)", xlim=(0, 1))
    right.legend()
    return figure


def as_csv(times: list[float], columns: dict[str, list[float]]) -> str:
    """Return the estimates as CSV: t, and a column for each with its standard error."""
    rows = [",".join(["t", *columns])]
    rows += [",".join(map(str, row)) for row in zip(times, *columns.values(), strict=True)]
    return "\r\n".join([*rows, ""])
