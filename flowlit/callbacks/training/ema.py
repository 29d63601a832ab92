"""Averages of the trained weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from ..._engine.lightning import accumulated_batches, is_logging_step, optimizer_steps
from ...errors import FlowlitError
from ...networks.checkpoints.safetensors_file import check_only_tensors
from ...networks.checkpoints.write import write_state
from ...ranges import Checked, Fraction, PositiveInt
from ...schedules.averages import Constant, PowerLaw
from ...types import EMAProfile
from .averaged_weights import AveragedWeights, PendingUpdate, describe, remove_snapshots


class EMA(Checked, Callback):
    """Move an average of the weights towards ``module.network`` after optimizer steps.

    Several of these callbacks keep several averages at once. The one named "ema" moves ``module.ema``; others
    live in ``module.averages`` while training. The module's ``weights`` chooses.

    Args:
        decay: 0.999999 in SlimFlow and Rectified Flow on CIFAR-10, the default; shorter for short runs.
        warmup: cap it by (1 + n) / (10 + n), n counted from 1 in each run.
        profile: instead of decay and warmup: ``PowerLaw``, ``Uniform``, … of ``flowlit.schedules.averages``.
        name: of letters, digits, _ and -.
        snapshots: optimizer steps between two files ``snapshots/<name>-<step>.safetensors`` in the run's
            folder, of which ``flowlit average`` makes averages of other widths; for ``PowerLaw`` only. A run
            that does not go on from a checkpoint begins by removing those of the run before it, or the two
            would be combined.
        every: optimizer steps between two moves, each by as much as in so many steps; the steps between are
            not averaged. A move reads and writes all weights: 4 leaves a quarter of that, and loses nothing
            that a long average would keep. After the last step the average is that of the last move; before
            the first one there is none.
    """

    def __init__(
        self,
        decay: Fraction | None = None,
        warmup: bool = True,
        profile: EMAProfile | None = None,
        name: str = "ema",
        snapshots: PositiveInt | None = None,
        every: PositiveInt = 1,
    ):
        self.decay = decay
        self.warmup = warmup
        self.profile = profile
        self.name = name
        self.snapshots = snapshots
        self.every = every
        self.rule = profile or Constant(0.999999 if decay is None else decay, warmup)
        self._timed: Callable[[], AbstractContextManager[None]] = nullcontext
        self._step = 0
        self._pending = PendingUpdate()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._pending.steps:
            checkpoint.setdefault("averages_waiting", {})[self.name] = asdict(self._pending)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._pending = PendingUpdate(**checkpoint.get("averages_waiting", {}).get(self.name, {}))

    def measure(self, timed: Callable[[], AbstractContextManager[None]]) -> None:
        """Let every move of the average happen within a context, which measures how long it takes."""
        self._timed = timed

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Add the average before a checkpoint is restored."""
        if stage == "fit":
            check(self, trainer, pl_module.averages)
            pl_module.averages.begin(self.name, pl_module.network)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count on where the checkpoint stopped, by the profile that is configured now."""
        averages = pl_module.averages
        updates = averages.updates(self.name) if optimizer_steps(trainer) else 0
        self._pending = self._pending if optimizer_steps(trainer) else PendingUpdate()
        rarely = {"every": self.every} if self.every > 1 else {}
        averages.record(self.name, {**describe(self.rule), **rarely, "updates": updates})
        self._step = optimizer_steps(trainer)
        self._weights = AveragedWeights(averages.average(self.name), pl_module.network)
        if self.snapshots and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = trainer.log_dir  # on every rank, for it is broadcast
            if trainer.is_global_zero and folder is not None:
                remove_snapshots(Path(folder) / "snapshots", self.name, updates)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if optimizer_steps(trainer) == self._step:
            return  # no optimizer step: gradients are still accumulating
        self._step = optimizer_steps(trainer)
        averages = pl_module.averages
        pending = self._pending
        update = averages.updates(self.name) + pending.steps + 1
        images = len(batch.x1) * trainer.world_size * accumulated_batches(trainer)
        decay = self.rule(update, images)
        if not 0 <= decay <= 1:
            raise FlowlitError(f"EMA {self.name}: the decay of update {update} is {decay}; expected [0, 1]")
        pending.add(decay)
        if is_logging_step(trainer):
            suffix = "" if self.name == "ema" else f"_{self.name}"
            pl_module.log(f"anneal/ema_decay{suffix}", decay, batch_size=1)
        if update % self.every:
            return
        with self._timed():
            self._weights.move(pending.decay)
        averages.record(self.name, {**averages.metadata[self.name], "updates": update})
        self._pending = PendingUpdate()
        if self.snapshots and update % self.snapshots == 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, module: Any) -> None:
        """Write the average as it is now; every rank takes part in gathering the weights."""
        folder = trainer.log_dir
        state = trainer.strategy.lightning_module_state_dict()
        if not trainer.is_global_zero or folder is None:
            return
        prefix = "ema." if self.name == "ema" else f"averages.{self.name}."
        weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        facts = {key: value for key, value in module.facts().items() if key not in ("averages", "network")}
        average = module.averages.metadata[self.name]
        own = {"weights": self.name, "ema": average, "ema_updates": average["updates"]}
        path = Path(folder) / "snapshots" / f"{self.name}-{average['updates']:08d}.safetensors"
        step = {"step": optimizer_steps(trainer)}
        write_state(weights, module.facts()["network"], path, {**facts, **own, **step})


def check(average: EMA, trainer: Any, averages: Any) -> None:
    """Refuse an average that could not be taken as it is written.

    Raises:
        FlowlitError: saying what to do.
    """
    name = average.name
    if average.profile is not None and (average.decay is not None or not average.warmup):
        given = "warmup false" if average.decay is None else f"decay {average.decay}"
        raise FlowlitError(f"EMA {name}: found {given} and a profile, which has its own; give one of the two")
    if sum(isinstance(other, EMA) and other.name == name for other in trainer.callbacks) > 1:
        raise FlowlitError(f"EMA: two averages are named {name!r}; give every EMA callback a name of its own")
    reserved = name == "raw" or (hasattr(averages, name) and name not in ("ema", *averages))
    if reserved or not re.fullmatch(r"[\w-]+", name):
        raise FlowlitError(
            f"EMA: {name!r} cannot be the name of an average: it has a meaning in PyTorch or here, or other "
            "signs than letters, digits, _ and -; choose another"
        )
    if trainer.precision in ("bf16-true", "16-true"):
        raise FlowlitError(
            f"precision {trainer.precision} would round the average after every step, and lose what it "
            "gathers; use --trainer.precision bf16-mixed, or no EMA"
        )
    if average.snapshots is not None:
        check_only_tensors(averages.ema.state_dict())
        check_snapshots(average, trainer, average.snapshots)


def check_snapshots(average: EMA, trainer: Any, steps: int) -> None:
    """Refuse snapshots that could not be written or combined.

    Raises:
        FlowlitError: saying what to do.
    """
    if steps % average.every:
        raise FlowlitError(
            f"EMA {average.name}: snapshots is {steps}; expected optimizer steps, a multiple of every, "
            f"{average.every}"
        )
    if not isinstance(average.rule, PowerLaw):
        raise FlowlitError(
            f"EMA {average.name}: snapshots of {type(average.rule).__name__} cannot be combined later; "
            "give profile: {class_path: flowlit.schedules.averages.PowerLaw}, or drop snapshots"
        )
    if not trainer.loggers and not trainer.fast_dev_run:
        raise FlowlitError(
            f"EMA {average.name}: snapshots go into the run's folder, and there is none; give trainer.logger"
        )
