"""Loss by training time: the times at which a flow is hard to learn."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ..._engine.lightning import is_logging_step, logged_step
from ..._engine.ranks import gathered
from ...errors import FlowlitError
from ...ranges import Checked, PositiveInt
from ...types import Objective
from ..evaluation.pictures import show_figure
from .heat_map import History, draw


class Binned:
    """Sums of losses in equal bins of t, on the device, so that adding to them waits for nothing."""

    def __init__(self, bins: int, device: torch.device):
        self.bins = bins
        self.sums = torch.zeros(2, bins, device=device)  # of losses, and how many
        self.empty = True

    def __call__(self, t: Tensor, loss: Tensor) -> None:
        """Add losses (B,) at times (B,) in [0, 1]."""
        self.empty = False
        where = (t * self.bins).long().clamp(0, self.bins - 1)
        self.sums.index_add_(
            1, where, torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32)])
        )


class LossOverTime(Checked, Callback):
    """Log the mean loss, per sample and before any weighting, in equal bins of the training time.

    ``loss_over_t/0.0-0.1`` and so on, over all samples of all ranks since it was last logged, which is when
    the trainer logs. Of ``Combined``, every part that draws times has its own,
    ``loss_over_t_<part>/0.0-0.1``, and so has the objective of a critic, as ``critic``. Score distillation
    has ``direction`` beside it, the size of the difference between critic and guide, which moves the samples.
    Bins without a sample are left out (Lightning's ``log`` would repeat their last value). After each
    validation and at the end all of it is drawn as a map, t over steps: ``curves/loss_over_t``. It reads what
    the objective reports and changes nothing.

    Args:
        bins: of [0, 1].
    """

    def __init__(self, bins: PositiveInt = 10):
        self.bins = bins
        self._watched: dict[str, Any] = {}
        self._optional: set[str] = set()
        self._binned: dict[str, Binned] = {}
        self._saved: dict[str, Tensor] = {}
        self._histories: dict[str, History] = {}
        self._saved_histories: dict[str, dict[str, Tensor]] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        sums = {name: gathered(trainer, binned.sums).cpu() for name, binned in self._binned.items()}
        checkpoint["loss_over_time"] = sums  # (world, 2, bins) since they were last logged
        maps = {name: history.state_dict() for name, history in self._histories.items()}
        checkpoint["loss_over_time_maps"] = maps

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._saved = checkpoint.get("loss_over_time", {})
        self._saved_histories = checkpoint.get("loss_over_time_maps", {})

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            objective = getattr(pl_module, "objective", None)
            second = getattr(getattr(pl_module, "critic", None), "objective", None)
            own = {**with_times(objective), **with_times(second, "_critic")}
            self._watched = {**beside_losses(own), **own}
            self._optional = self._watched.keys() - own.keys()
            if not self._watched:
                raise FlowlitError(
                    f"LossOverTime: {type(objective).__name__} draws no training times; it needs an "
                    "objective that does, e.g. "
                    "RectifiedFlow or FlowGuided. Remove flowlit.callbacks.LossOverTime from "
                    "trainer.callbacks"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._binned = {name: Binned(self.bins, pl_module.device) for name in self._watched}
        for name, sums in self._saved.items():
            if name in self._binned and sums.shape[1:] == self._binned[name].sums.shape:
                self._binned[name].sums += own_part(sums, trainer.global_rank, trainer.world_size).to(
                    pl_module.device
                )
        self._histories = {name: History(self.bins) for name in self._watched}
        for name, history in self._histories.items():
            history.load_state_dict(self._saved_histories.get(name, {}))
        self._saved = {}
        self._saved_histories = {}
        for name, objective in self._watched.items():
            objective.observer = self._binned[name]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not is_logging_step(trainer):
            return
        means: dict[str, float] = {}
        for name, binned in self._binned.items():
            waits = logged_step(trainer) < getattr(self._watched[name], "begins", 0)
            if binned.empty and (waits or name in self._optional):
                continue
            if binned.empty:
                kind = type(self._watched[name]).__name__
                raise FlowlitError(
                    f"LossOverTime: {kind} has times, but reports none; "
                    "call self.report(t, loss) in its forward"
                )
            total, count = trainer.strategy.reduce(binned.sums, reduce_op="sum").tolist()
            means |= {
                f"loss_over_t{name}/{bin}": x / n
                for bin, x, n in zip(labels(self.bins), total, count, strict=True)
                if n
            }
            column = torch.tensor(total) / torch.tensor(count)
            self._histories[name].add(logged_step(trainer), column)
            binned.sums = torch.zeros_like(binned.sums)
        for logger in trainer.loggers:
            logger.log_metrics(means, step=logged_step(trainer))

    def _draw(self, trainer: pl.Trainer) -> None:
        maps = {name.removeprefix("_"): own for name, own in self._histories.items() if len(own.steps)}
        if maps and all(len(history.steps) > 1 for history in maps.values()):
            show_figure(trainer, "curves/loss_over_t", lambda: draw(maps))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._draw(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for objective in self._watched.values():
            objective.observer = None
        self._watched = {}


def own_part(sums: Tensor, rank: int, world: int) -> Tensor:
    """Return this rank's part (2, bins) of saved sums (world, 2, bins).

    If there were more or fewer ranks then, the first one takes the sums of all.
    """
    return sums[rank] if len(sums) == world else sums.sum(0) * (rank == 0)


def with_times(objective: Any, name: str = "") -> dict[str, Objective]:
    """Return the objectives that draw training times: the given one, or its parts by ``_<name>``."""
    if getattr(objective, "times", None) is not None:
        return {name: objective}
    parts = getattr(objective, "objectives", None) or {}
    return {
        key: timed
        for part, child in parts.items()
        for key, timed in with_times(child, f"{name}_{part}").items()
    }


def beside_losses(objectives: dict[str, Objective]) -> dict[str, Any]:
    """Return what objectives may report by time beside their losses, by ``<objective>_<name>``."""
    return {
        f"{name}_{key}": part
        for name, objective in objectives.items()
        for key, part in getattr(objective, "reports", {}).items()
    }


def labels(bins: int) -> list[str]:
    """Name equal bins of [0, 1] by their ends, with as few decimals as are needed, 3 at most.

    >>> labels(2), labels(4)[:1]
    (['0.0-0.5', '0.5-1.0'], ['0.00-0.25'])
    """
    decimals = next((d for d in (1, 2) if 10**d % bins == 0), 3)
    return [f"{i / bins:.{decimals}f}-{(i + 1) / bins:.{decimals}f}" for i in range(bins)]
