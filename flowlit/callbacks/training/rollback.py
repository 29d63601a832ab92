"""Return to a good checkpoint when training goes wrong."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..._engine.lightning import is_accumulating, is_logging_step, optimizer_steps
from ..._engine.loops import scale_learning_rate
from ...errors import Diverged, FlowlitError
from ...ranges import Checked, PositiveFloat, PositiveInt, Share
from .checkpoint import LAST, PREVIOUS, LastCheckpoint, keeper_of
from .gradients import Gradients

REMEMBERED = 20
"""Windows whose median says what the loss usually is; a fifth of them are needed before any is called a
spike.
"""


class Rollback(Checked, Callback):
    """Go back to a good checkpoint, with a lower learning rate and other draws, when training goes wrong.

    Watched is the mean loss over windows of optimizer steps, on all devices: one that is not finite, or many
    times the median of the windows before it, is trouble; so are too many steps with non-finite gradients
    (``Gradients`` counts them). Training then goes on from last.ckpt in the same process; if that leads into
    trouble again, from the one before. After several times without getting past it, one clear error ends the
    run. Needs ``LastCheckpoint``, and a checkpoint is never written of weights that are not finite. With a
    critic, the loss is the generator's, and both networks go back.

    Args:
        spike: how many times the usual loss is trouble.
        window: optimizer steps over which the loss is averaged; a GPU is waited for once in each.
        bad_steps: steps with non-finite gradients, among those of the last 20 windows, that are trouble.
        factor: of the learning rate, each time.
        most: rollbacks without getting past the step where the trouble was.
    """

    def __init__(
        self,
        spike: PositiveFloat = 5.0,
        window: PositiveInt = 50,
        bad_steps: PositiveInt = 20,
        factor: Share = 0.5,
        most: PositiveInt = 3,
    ):
        if spike <= 1:
            raise FlowlitError(f"Rollback: spike is {spike}; expected more than 1 times the usual loss")
        self.spike = spike
        self.window = window
        self.bad_steps = bad_steps
        self.factor = factor
        self.most = most
        self.rollbacks = self._attempts = self._farthest = 0
        self.lowered = 1.0  # of the learning rate, by all rollbacks so far
        self._windows: list[tuple[float, int]] = []  # mean loss and bad steps so far of the good ones
        self._sum: Tensor | float = 0.0
        self._count = 0
        self._going_back = False

    def state_dict(self) -> dict[str, Any]:
        window = {"windows": self._windows, "sum": float(self._sum), "count": self._count}
        attempts = {"attempts": self._attempts, "farthest": self._farthest}
        return {"rollbacks": self.rollbacks, "lowered": self.lowered, **attempts, **window}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._windows = [tuple(window) for window in state_dict["windows"]]
        self._sum = state_dict["sum"]
        self._count = state_dict["count"]
        if not self._going_back:
            self.rollbacks = state_dict["rollbacks"]
            self.lowered = state_dict["lowered"]
            self._attempts = state_dict["attempts"]
            self._farthest = state_dict["farthest"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            keeper(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._going_back = False
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "restart"):
            data.restart(self.rollbacks)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:  # or it was a critic's turn
            self._sum = self._sum + loss.detach()
            self._count = self._count + 1
        if not is_accumulating(trainer) and optimizer_steps(trainer) % self.window == 0:
            self._judge(trainer)
        if is_logging_step(trainer):
            pl_module.log("gradients/rollbacks", float(self.rollbacks), batch_size=1)

    def _judge(self, trainer: pl.Trainer) -> None:
        mean = float(trainer.strategy.reduce(torch.as_tensor(self._sum / self._count), reduce_op="mean"))
        bad = bad_steps(trainer)
        before = self._windows[0][1] if self._windows else 0
        usual = [loss for loss, _ in self._windows]
        reason = trouble(mean, usual, self.spike) or many(bad - before, self.bad_steps)
        if reason:
            raise Diverged(f"step {optimizer_steps(trainer)}: {reason}")
        self._windows = [*self._windows, (mean, bad)][-REMEMBERED:]
        self._sum = 0.0
        self._count = 0
        if optimizer_steps(trainer) > self._farthest:
            self._attempts = 0

    def back(self, trainer: pl.Trainer, why: FlowlitError) -> Path:
        """Choose the checkpoint to go on from.

        Raises:
            FlowlitError: if that was done often enough, or there is none.
        """
        folder = keeper(trainer).folder
        files = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
        if not files or not keeper(trainer).begun:
            raise FlowlitError(
                f"{why}. There is no checkpoint of this run to go back to; start it with a lower learning "
                "rate"
            )
        if self._attempts >= self.most:
            raise FlowlitError(
                f"{why}. Training went back {self._attempts} times and did not get past it. Look at the "
                f"data and the curves: the trouble may have begun before the checkpoints in {folder}. Then "
                "start afresh, or go on from an older one (--ckpt_path), with a lower learning rate "
                "(--model.optimizer.lr)"
            ) from why
        trainer.lightning_module.teardown("fit")  # Lightning calls it only after a fit that succeeds
        self._attempts = self._attempts + 1
        self.rollbacks = self.rollbacks + 1
        self._going_back = True
        self._farthest = max(self._farthest, optimizer_steps(trainer))
        self.lowered = self.lowered * self.factor
        target = Path(trainer.strategy.broadcast(str(files[min(self._attempts, len(files)) - 1])))
        count = f"{self._attempts} of {self.most}"
        rank_zero_info(f"flowlit: {why}: going back to {target}, learning rate × {self.lowered:g} ({count})")
        return target

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._going_back:  # the file may have been lowered before
            already = checkpoint["callbacks"].get(self.state_key, {}).get("lowered", 1.0)
            scale_learning_rate(checkpoint, self.lowered / already)


def many(bad: int, limit: int) -> str:
    """Return the trouble that too many bad steps are; '' if there were not."""
    return f"{bad} steps had non-finite gradients" if bad >= limit else ""


def trouble(mean: float, usual: list[float], spike: float) -> str:
    """Return what is wrong with a window's mean loss; '' if nothing is.

    >>> trouble(1.1, [1.0] * 8, spike=5.0)
    ''
    >>> trouble(9.0, [1.0] * 8, spike=5.0)
    'the loss is 9, it was 1'
    """
    if not abs(mean) < float("inf"):
        return "the loss is not finite"
    if len(usual) >= REMEMBERED // 5 and mean > spike * median(usual) > 0:
        return f"the loss is {mean:.3g}, it was {median(usual):.3g}"
    return ""


def bad_steps(trainer: pl.Trainer) -> int:
    """Return the steps with non-finite gradients so far, as far as ``Gradients`` counts them."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return sum(int(callback.bad_steps) for callback in callbacks if isinstance(callback, Gradients))


def keeper(trainer: pl.Trainer) -> LastCheckpoint:
    """Return the callback that keeps the last checkpoints.

    Raises:
        FlowlitError: if there is none.
    """
    callback = keeper_of(trainer)
    if callback is None:
        raise FlowlitError(
            "Rollback needs checkpoints to go back to; add flowlit.callbacks.LastCheckpoint to "
            "trainer.callbacks"
        )
    return callback
