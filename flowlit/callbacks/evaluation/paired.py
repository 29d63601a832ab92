"""Generated images against the images that they should be."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from ...errors import FlowlitError
from ...metrics.paired import PSNR, PairedMetric, mean_of, variance_ratio
from ...metrics.report import Estimate
from ...ranges import PositiveInt
from .base import noise_of, numbers, protocols
from .grids import FirstImages, check_noise
from .knob import curves, draw_curves
from .pictures import show_figure


class PairedMetrics(FirstImages):
    """Log how near the first images of validation are to those that were degraded.

    For super-resolution. ``<metric>/<solver>`` is the mean over images, with its standard error in the
    report. Solvers ``OneStep(t)`` of several t make the curve from fidelity to realism,
    ``fidelity_realism.png``, with Fréchet distances where ``FID`` measures them.

    Args:
        metrics: such as ``flowlit.metrics.PSNR`` and ``SSIM``; None is PSNR of all channels.
        num: images.
        mean: the solver whose images estimate the mean of all answers, as ``Euler(1)`` or ``OneStep(0)``.
            With it, ``variance_ratio/<solver>`` is 1 for samples of the posterior and 0 for its mean.
    """

    def __init__(
        self, metrics: list[PairedMetric] | None = None, num: PositiveInt = 64, mean: str | None = None
    ):
        super().__init__(num)
        self.metrics = [PSNR()] if metrics is None else metrics
        self.mean = mean
        self._estimates: dict[str, Estimate] = {}

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the metrics by name."""
        return {metric.name: metric.title for metric in self.metrics}

    def protocol(self) -> dict[str, Any]:
        spread = {tag: each.spread for tag, each in self._estimates.items() if each.spread is not None}
        return {"paired": {"metrics": self.titles, "images": self.num, "mean": self.mean}, "spread": spread}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        noise = check_noise(trainer, stage, "PairedMetrics", self.num)
        if noise is None:
            return
        if not hasattr(noise, "targets"):
            raise FlowlitError(
                f"PairedMetrics: data.noise is {type(noise).__name__}, whose images have no originals; "
                "expected flowlit.couplings.DegradedImages"
            )
        if self.mean is not None and self.mean not in pl_module.solvers:
            names = ", ".join(pl_module.solvers)
            raise FlowlitError(f"PairedMetrics: mean is {self.mean!r}; expected one of the solvers {names}")
        super().setup(trainer, pl_module, stage)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        images = self.gather()
        source: Any = noise_of(trainer)
        self._estimates = self.estimates(images, source.targets(range(self.num)))
        for tag, estimate in self._estimates.items():
            module.log(tag, estimate.value, rank_zero_only=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        names = [*self.titles, "variance_ratio"]
        spread = protocols(trainer).get("spread", {})
        drawn = curves(pl_module.solvers, numbers(trainer), spread, names)
        if drawn:
            show_figure(trainer, "fidelity_realism", lambda: draw_curves(drawn, self.titles))

    on_test_end = on_validation_end

    def estimates(self, images: dict[str, Tensor], targets: Tensor) -> dict[str, Estimate]:
        """Return numbers by tag, of uint8 images by solver and their originals, (N, C, H, W) each."""
        numbers = {
            f"{metric.name}/{solver}": mean_of(metric(each, targets))
            for solver, each in images.items()
            for metric in self.metrics
        }
        if self.mean is None:
            return numbers
        middle = images[self.mean].double()
        least = (middle - targets).square().flatten(1).sum(1)
        for solver, each in images.items():
            if solver != self.mean:
                away = (each.double() - middle).square().flatten(1).sum(1)
                numbers[f"variance_ratio/{solver}"] = variance_ratio(away, least)
        return numbers
