"""Geometry of a flow during training: straightness, transport cost, curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import Tensor
from torchmetrics import CatMetric

from ..._support.batch_invariance import BatchInvariant
from ..._support.files import write_atomically
from ...errors import FlowlitError
from ...metrics.geometry import Curves, MeanMotion, motion
from ...ranges import PositiveInt
from .base import Evaluation
from .grids import check_noise, first_noises, in_parts
from .pictures import boards, file_for, show_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Straightness(Evaluation):
    """Log the geometry of the flow from the first noises of validation, simulated once with Euler steps.

    ``straightness/sum`` is summed over pixels, as Rectified Flow defines it; ``straightness/per_dimension``
    is divided by C·H·W, and ``straightness/per_sample`` is a histogram of the sums. ``transport_cost/sum``
    and ``/per_dimension`` are E ‖Z1 - Z0‖²; ``curvature/mean`` is the root mean square of d²Z/dt² per
    dimension, averaged over t; ``chord_error/rms`` that of one Euler step's error. ``curves/straightness``
    shows deviation and curvature over t, as a picture in the loggers, a PNG and a CSV.

    It costs ``steps`` evaluations per sample. Meaningless for a one-step student, whose velocity is trained
    at t = 0 only.

    Args:
        steps: Euler steps of the estimate; 100 give two digits.
        num: at most so many samples, over all ranks.
    """

    def __init__(self, steps: PositiveInt = 100, num: PositiveInt = 256):
        self.steps = steps
        self.num = num
        self._samples = 0

    def protocol(self) -> dict[str, Any]:
        return {"straightness": {"euler_steps": self.steps, "samples": self._samples}}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.steps < 3:
            raise FlowlitError(f"Straightness: expected steps >= 3, found steps={self.steps}")
        check_noise(trainer, stage, "Straightness", 1)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        num = self._samples = min(self.num, len(trainer.datamodule.noise))  # type: ignore[attr-defined]
        mean = MeanMotion(self.steps).to(module.device)
        sums = CatMetric().to(module.device)
        noise = first_noises(trainer, module, num, stripe=True)
        for part in in_parts(trainer, noise):
            with trainer.precision_plugin.val_step_context():
                part_motion = motion(BatchInvariant(module.velocity()), part.x0, part.cond, self.steps)
            mean.update(part_motion)
            sums.update(part_motion.deviation.mean(1).float() * part.x0[0].numel())
        curves = mean.compute()
        every = sums.compute()
        for name, value in scalars(curves, noise.x0.shape[1:].numel()).items():
            module.log(name, value.float(), rank_zero_only=True)
        for board in boards(trainer):
            board.add_histogram("straightness/per_sample", every, trainer.global_step)
        show_figure(trainer, "curves/straightness", lambda: draw(curves))
        path = file_for(trainer, "curves/straightness.csv")
        if path is not None:
            write_atomically(path, as_csv(curves).encode())


def scalars(curves: Curves, dimensions: int) -> dict[str, Tensor]:
    """Return the numbers of a flow's geometry by their tags, each ()."""
    return {
        "straightness/sum": curves.straightness * dimensions,
        "straightness/per_dimension": curves.straightness,
        "transport_cost/sum": curves.transport * dimensions,
        "transport_cost/per_dimension": curves.transport,
        "curvature/mean": curves.curvature.mean(),
        "chord_error/rms": curves.chord_error,
    }


def draw(curves: Curves) -> Figure:
    """Draw deviation and curvature over t, side by side, 800×320 pixels."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    figure = Figure(figsize=(8, 3.2), dpi=100, layout="constrained")
    named = (("E ‖(Z1 - Z0) - v‖² / d", curves.deviation), ("root mean square of d²Z/dt²", curves.curvature))
    for axes, (title, curve) in zip(figure.subplots(1, 2), named, strict=True):
        axes.plot(curves.times(curve).tolist(), curve.tolist())
        axes.set(title=title, xlabel="t (noise 0, data 1)", xlim=(0, 1))
        axes.set_ylim(bottom=0)
    return figure


def as_csv(curves: Curves) -> str:
    """Return the curves as CSV: curve, t, value."""
    rows = ["curve,t,value"]
    for name, curve in (("deviation", curves.deviation), ("curvature", curves.curvature)):
        points = zip(curves.times(curve).tolist(), curve.tolist(), strict=True)
        rows += [f"{name},{t},{value}" for t, value in points]
    return "\r\n".join([*rows, ""])
