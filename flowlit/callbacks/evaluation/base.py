"""What callbacks that look at generated images share."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Evaluation(Callback):
    """Follow a validation or test run: ``begin``, ``look`` at every batch, ``end``. Silent in the sanity
    check.

    The module's step returns {"noise": Noise, "solutions": {solver: Solution}}.
    """

    def watch(self, trainer: pl.Trainer, num: int) -> None:
        """Have the first ``num`` samples generated also where an earlier run has measured them; call it in
        ``setup``.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "watched"):
            data.watched = max(data.watched, num)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        """Before the first batch."""

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        """After a batch was generated."""

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        """After the last batch, while one may still log."""

    def protocol(self) -> dict[str, Any]:
        """What ``Report`` is to write of how this callback measured, by the name of the part."""
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
    """What the user asked for: fit, validate, test, predict, couple or sweep."""
    return getattr(trainer, "command", None) or str(trainer.state.fn.value)  # type: ignore[union-attr]


def protocols(trainer: pl.Trainer) -> dict[str, Any]:
    """What all callbacks tell of how they measured; parts of the same name are put together."""
    report: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name, told in (callback.protocol() if isinstance(callback, Evaluation) else {}).items():
            report[name] = {**report.get(name, {}), **told} if isinstance(told, dict) else told
    return report


def numbers(trainer: pl.Trainer) -> dict[str, float]:
    """Every number that was logged, by tag; as float64 where a callback told it so (Lightning keeps
    float32).
    """
    logged = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    return logged | protocols(trainer).get("metrics", {})
