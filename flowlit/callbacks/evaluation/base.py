"""Base class of callbacks that evaluate generated images, and the report's parts that they contribute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ...errors import FlowlitError
from ...ranges import Checked
from ...types import Source


class Evaluation(Checked, Callback, ABC):
    """Follow a validation or test run: ``begin``, ``look`` at every batch, ``end``. Silent in the sanity
    check.

    The module's step returns {"noise": Noise, "solutions": {solver: Solution}}.
    """

    def watch(self, trainer: pl.Trainer, num: int) -> None:
        """Have the first ``num`` samples generated also where an earlier run has measured them.

        Call it in ``setup``.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "require"):
            data.require(num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        """Prepare, before the first batch."""

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        """Take in a batch that was generated."""

    @abstractmethod
    def end(self, trainer: pl.Trainer, module: Any) -> None:
        """Log and draw, after the last batch."""

    def protocol(self) -> dict[str, Any]:
        """Return facts about how this callback measured, by part of the ``Report``."""
        return {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.begin(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self.look(trainer, pl_module, outputs, batch_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.end(trainer, pl_module)

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def command_of(trainer: pl.Trainer) -> str:
    """Return the command of this run: fit, validate, test, predict, couple or sweep."""
    return getattr(trainer, "command", None) or str(trainer.state.fn.value)  # type: ignore[union-attr]


def protocols(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what all callbacks contribute to the report; parts of the same name are merged."""
    report: dict[str, Any] = {}
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Evaluation):
            for name, facts in callback.protocol().items():
                report[name] = {**report.get(name, {}), **facts} if isinstance(facts, dict) else facts
    return report


def numbers(trainer: pl.Trainer) -> dict[str, float]:
    """Return every number that was logged, by tag.

    In float64 where a callback contributes it so to the report, since Lightning keeps float32.
    """
    logged = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    return logged | protocols(trainer).get("metrics", {})


def data_of(trainer: pl.Trainer) -> Any:
    """Return the data module, whose noise has indices.

    Raises:
        FlowlitError: if it is another kind of data.
    """
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "evaluated"):
        raise FlowlitError("FID needs noise that is known by index: use data: flowlit.modules.FlowDataModule")
    return data


def noise_of(trainer: pl.Trainer) -> Source:
    """Return the noise that this run generates from."""
    return data_of(trainer).evaluated("test" if trainer.state.fn == "test" else "validate")
