"""Cost of a training, counted: evaluations of networks with and without gradient, steps, images, seconds."""

from __future__ import annotations

from functools import reduce
from typing import Any

import lightning.pytorch as pl
import msgspec
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from ..._engine.lightning import is_accumulating, is_logging_step, optimizer_steps
from ..._engine.ranks import gathered_objects
from ..._support.files import write_atomically
from ...metrics.training_cost import COSTS, FILE, Evaluations, TrainingCosts
from ...ranges import Checked
from ..evaluation.pictures import file_for
from .counting import Clock, CountedNetworks


class TrainingCost(Checked, Callback):
    """Count what ``fit`` takes: evaluations of the trained network, of averages, guides and teachers.

    A sample in a call is one evaluation, and as many as NFE has for it under guidance. It is counted at the
    call itself, with gradient if one can flow back from the output; compiled networks and CUDA graphs are
    seen as others. Validation and generation count nothing, nor do the networks of distances. A teacher that
    makes pairs on the fly counts when it makes them, with ``data.overlap`` one batch ahead.

    All ranks are added up, and counts go on with the run. ``training_cost.json`` in the run's folder is
    written with each checkpoint and at the end; ``cost/…`` is logged when the trainer logs. Use it wherever
    trainings are to be compared at equal cost (``flowlit arena``).
    """

    def __init__(self) -> None:
        self._before = TrainingCosts()  # of all ranks, before this process
        self._own = TrainingCosts()
        self._clock = Clock()
        self._networks: CountedNetworks | None = None

    def state_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self.costs())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._own.steps:  # otherwise a rollback goes back, and what it cost is spent
            self._before = COSTS.check(state_dict, "the checkpoint's record of cost")

    def costs(self) -> TrainingCosts:
        """Return what was counted so far on all ranks, each of which must call it."""
        self._own.seconds, self._own.processor_seconds = self._clock.read()
        ranks = gathered_objects(msgspec.to_builtins(self._own))
        own = [msgspec.convert(rank, TrainingCosts) for rank in ranks]
        total = reduce(together, own)
        # by the clock, and in steps, all ranks take the same
        parts = msgspec.structs.replace(total, seconds=self._own.seconds, steps=self._own.steps)
        return msgspec.structs.replace(together(self._before, parts), devices=len(ranks))

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Begin to count.

        A run that goes on from a checkpoint without counts is counted from there, which is said.
        """
        coupling = getattr(getattr(trainer, "datamodule", None), "coupling", None)
        self._networks = CountedNetworks(pl_module, coupling, self._own.networks)
        step = optimizer_steps(trainer)
        if step and not self._before.steps and not self._own.steps:
            self._before = TrainingCosts(first_step=step)
            rank_zero_info(f"flowlit: TrainingCost: the checkpoint has no counts; they begin at step {step}")
        self._clock.start()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._own.images += len(batch.x1)
        if self._networks is not None:
            self._networks.begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._networks is not None:
            self._networks.end()
        self._own.steps += not is_accumulating(trainer)
        if is_logging_step(trainer):
            costs = self.costs()
            for name, count in msgspec.to_builtins(costs.evaluations()).items():
                pl_module.log(f"cost/evaluations_{name}", float(count), batch_size=1)
            for name in ("images", "seconds", "processor_seconds"):
                pl_module.log(f"cost/{name}", float(getattr(costs, name)), batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._clock.stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._clock.start()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._clock.stop()
        self._write(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._leave()

    def _leave(self) -> None:
        self._clock.stop()
        if self._networks is not None:
            self._networks.release()

    def _write(self, trainer: pl.Trainer) -> None:
        costs = self.costs()
        path = file_for(trainer, FILE)
        if path is not None:
            write_atomically(path, msgspec.json.format(msgspec.json.encode(costs), indent=1))


def together(a: TrainingCosts, b: TrainingCosts) -> TrainingCosts:
    """Add up two parts of a training, from the first step of the first."""
    names = [*a.networks, *(name for name in b.networks if name not in a.networks)]
    nothing = Evaluations()
    return TrainingCosts(
        steps=a.steps + b.steps,
        images=a.images + b.images,
        networks={name: a.networks.get(name, nothing) + b.networks.get(name, nothing) for name in names},
        seconds=a.seconds + b.seconds,
        processor_seconds=a.processor_seconds + b.processor_seconds,
        first_step=a.first_step,
    )
