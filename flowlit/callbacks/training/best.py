"""The best checkpoint of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from ..._engine.lightning import saves_at_epoch_end, steps_between_saves, time_between_saves
from ...errors import FlowlitError
from ...ranges import Checked

TRAINING = ("train/", "loss_over_t/", "gradients/", "anneal/", "lr-")
"""Beginnings of what is logged in training, and not in validations."""


class BestCheckpoint(Checked, ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt``, the state after the validation with the best value of a metric.

    Judged is each validation by its own numbers, whatever counts steps or epochs. Use ``save_top_k`` of
    Lightning's ``ModelCheckpoint`` to keep several. ``--ckpt_path best`` names this one, ``--resume auto``
    goes on from ``LastCheckpoint``'s, and judges against the same best value.

    Args:
        monitor: tag of a metric that validations log, as ``frechet_digits/euler1``: see TensorBoard, or
            ``metrics.json`` of ``flowlit validate``.
        mode: whether the smallest or the largest value is best.
        name: of the file, without .ckpt; another one for a second metric.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"] = "min", name: str = "best"):
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename=name,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a name that is another checkpoint's.

        Raises:
            FlowlitError: naming it.
        """
        super().setup(trainer, pl_module, stage)
        others = [c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint) and c is not self]
        name = str(self.filename)
        taken = ["last", "previous", *(other.filename for other in others if other.dirpath == self.dirpath)]
        if name in taken or not re.fullmatch(r"[\w.-]+", name):
            raise FlowlitError(
                f"BestCheckpoint: name is {name!r}; expected letters, digits, _ . - and a name of its own: "
                "last and previous are LastCheckpoint's"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save if this validation is the best so far.

        Raises:
            FlowlitError: if it did not log the metric, naming those that it did.
        """
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            logged = sorted(trainer.callback_metrics)
            if self.monitor not in logged:
                known = ", ".join(name for name in logged if not name.startswith(TRAINING)) or "nothing"
                raise FlowlitError(
                    f"BestCheckpoint: no validation logs {self.monitor!r}; logged is {known}. Choose another "
                    "monitor, or add the callback that measures it, as flowlit.callbacks.FID"
                )
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Warn if there is no best checkpoint because nothing was validated."""
        super().on_train_end(trainer, pl_module)
        if not self.best_model_path:
            rank_zero_warn(
                f"BestCheckpoint: no validation took place, so there is no {self.filename}.ckpt; validate "
                "more often (trainer.val_check_interval), or drop the callback"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the name of its file, without folders: a run may be moved."""
        score = self.best_model_score
        value = None if score is None else float(score)
        return {"best_value": value, "best_model_path": Path(self.best_model_path).name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_value"] is not None:
            path = str(Path(str(self.dirpath)) / f"{self.filename}.ckpt")
            self.best_model_path = self.kth_best_model_path = path
            self.best_model_score = self.kth_value = torch.tensor(state_dict["best_value"])
            self.best_k_models = {path: self.kth_value}


class Misjudgement(NamedTuple):
    """A way in which Lightning's ``ModelCheckpoint`` does not keep what it seems to; what mends it."""

    what: str
    mend: str


def misjudgements(trainer: pl.Trainer) -> Iterator[Misjudgement]:
    """Yield what is wrong with the ``ModelCheckpoint`` callbacks of a trainer."""
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        monitor = callback.monitor or ""
        early = steps_between_saves(callback) or time_between_saves(callback) or saves_at_epoch_end(callback)
        if monitor and early and not monitor.startswith(TRAINING):
            yield Misjudgement(
                f"ModelCheckpoint(monitor={monitor!r}) saves before the validation of its step, and judges "
                "by the one before it",
                "drop every_n_train_steps, train_time_interval and save_on_train_epoch_end, or use "
                "flowlit.callbacks.BestCheckpoint",
            )
        if "/" in fixed_part(callback):
            yield Misjudgement(
                f"ModelCheckpoint(filename={callback.filename!r}) makes folders, which stay when their "
                "files go, and in which --resume auto does not look",
                "choose a name without a slash; with auto_insert_metric_name: false, a metric's value may "
                "stand in it, but not its tag",
            )


def fixed_part(callback: ModelCheckpoint) -> str:
    """Return the name of a callback's files without the values that are put into it."""
    name = callback.filename or ""
    return name if callback.auto_insert_metric_name else re.sub(r"\{.*?\}", "", name)
