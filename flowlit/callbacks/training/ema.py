"""Average the trained weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ..._engine.lightning import accumulated_batches, is_logging_step, optimizer_steps
from ..._support.names import public_path
from ...errors import FlowlitError
from ...networks.checkpoints.spec import spec
from ...networks.checkpoints.write import write_state
from ...schedules.averages import Constant, PowerLaw
from ...types import EMAProfile


class EMA(Callback):
    """Move an average towards ``module.network`` after optimizer steps; several of them keep several averages
    at once.

    The one named "ema" moves ``module.ema``; others live in ``module.averages`` while training. The module's
    ``weights`` chooses.

    Args:
        decay: 0.999999 in SlimFlow and Rectified Flow on CIFAR-10, the default; shorter for short runs.
        warmup: cap it by (1 + n) / (10 + n), n counted from 1 in each run.
        profile: instead of decay and warmup: ``HalfLife``, ``PowerLaw``, … of ``flowlit.schedules.averages``.
        name: of letters, digits, _ and -.
        snapshots: optimizer steps between two files ``snapshots/<name>-<step>.safetensors`` in the run's
            folder, of which ``flowlit average`` makes averages of other widths; for ``PowerLaw`` only. A run
            that does not go on from a checkpoint begins by removing those of the run before it, or the two
            would be combined.
        every: optimizer steps between two moves, each of which forgets as much as so many; the steps between
            are not averaged. Moving reads and writes all weights: 4 leaves a quarter of that, and forgets
            nothing that a long average would keep. After the last step the average is that of the last move;
            before the first one there is none.
    """

    def __init__(
        self,
        decay: float | None = None,
        warmup: bool = True,
        profile: EMAProfile | None = None,
        name: str = "ema",
        snapshots: int | None = None,
        every: int = 1,
    ):
        self.decay = decay
        self.warmup = warmup
        self.profile = profile
        self.name = name
        self.snapshots = snapshots
        self.every = every
        self.rule = profile or Constant(0.999999 if decay is None else decay, warmup)
        self.measured: Callable[[], AbstractContextManager[None]] = (
            nullcontext  # whoever wants to know how long it takes
        )
        self._step = 0
        self._waiting = PendingUpdate()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._waiting.steps:
            checkpoint.setdefault("averages_waiting", {})[self.name] = asdict(self._waiting)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._waiting = PendingUpdate(**checkpoint.get("averages_waiting", {}).get(self.name, {}))

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Make the average before a checkpoint is restored."""
        if stage != "fit":
            return
        self._check(trainer)
        pl_module.averages.begin(self.name, pl_module.network)

    def _check(self, trainer: Any) -> None:
        """Refuse what could not be done as it is written."""
        if self.profile is not None and (self.decay is not None or not self.warmup):
            found = f"decay {self.decay}" if self.decay is not None else "warmup false"
            raise FlowlitError(
                f"EMA {self.name}: found {found} and a profile, which has its own; give one of the two"
            )
        if sum(isinstance(other, EMA) and other.name == self.name for other in trainer.callbacks) > 1:
            raise FlowlitError(
                f"EMA: two averages are named {self.name!r}; give every EMA callback a name of its own"
            )
        if (
            not re.fullmatch(r"[\w-]+", self.name)
            or self.name == "raw"
            or hasattr(nn.ModuleDict(), self.name)
        ):
            raise FlowlitError(
                f"EMA: {self.name!r} cannot be the name of an average: it has a meaning in PyTorch or here, "
                "or other signs than "
                "letters, digits, _ and -; choose another"
            )
        if trainer.precision in ("bf16-true", "16-true"):
            raise FlowlitError(
                f"precision {trainer.precision} would round the average after every step, and lose what it "
                "gathers; "
                "use --trainer.precision bf16-mixed, or no EMA"
            )
        if self.every < 1:
            raise FlowlitError(
                f"EMA {self.name}: every is {self.every}; expected optimizer steps, at least 1"
            )
        if self.snapshots is not None:
            self._check_snapshots(trainer, self.snapshots)

    def _check_snapshots(self, trainer: Any, steps: int) -> None:
        if steps < 1 or steps % self.every:
            multiple = "at least 1" if self.every == 1 else f"a multiple of every, {self.every}"
            raise FlowlitError(f"EMA {self.name}: snapshots is {steps}; expected optimizer steps, {multiple}")
        if not isinstance(self.rule, PowerLaw):
            raise FlowlitError(
                f"EMA {self.name}: snapshots of {type(self.rule).__name__} cannot be combined later; "
                "give profile: {class_path: flowlit.schedules.averages.PowerLaw}, or drop snapshots"
            )
        if not trainer.loggers and not trainer.fast_dev_run:
            raise FlowlitError(
                f"EMA {self.name}: snapshots go into the run's folder, and there is none; give trainer.logger"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count on where the checkpoint stopped, by the profile that is configured now."""
        averages = pl_module.averages
        updates = averages.updates(self.name) if optimizer_steps(trainer) else 0
        self._waiting = self._waiting if optimizer_steps(trainer) else PendingUpdate()
        rarely = {"every": self.every} if self.every > 1 else {}
        averages.record(self.name, {**described(self.rule), **rarely, "updates": updates})
        self._step = optimizer_steps(trainer)
        self._twins = AveragedWeights(averages.average(self.name), pl_module.network)
        if self.snapshots and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._begin(trainer, updates)

    def _begin(self, trainer: pl.Trainer, updates: int) -> None:
        """Remove snapshots from beyond this step: of an earlier run, or of steps that are taken once more."""
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.is_global_zero and folder is not None:
            for file in (Path(folder) / "snapshots").glob("*-????????.safetensors"):
                if not updates or (file.stem[:-9] == self.name and int(file.stem[-8:]) > updates):
                    file.unlink()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if optimizer_steps(trainer) == self._step:
            return  # no optimizer step: gradients are still accumulating
        self._step = optimizer_steps(trainer)
        averages = pl_module.averages
        waiting = self._waiting
        update = averages.updates(self.name) + waiting.steps + 1
        images = len(batch.x1) * trainer.world_size * accumulated_batches(trainer)
        decay = self.rule(update, images)
        waiting.add(decay)
        if is_logging_step(trainer):
            pl_module.log(
                "anneal/ema_decay" + (f"_{self.name}" if self.name != "ema" else ""), decay, batch_size=1
            )
        if update % self.every:
            return
        with self.measured():
            self._twins.move(waiting.decay)
        averages.record(self.name, {**averages.metadata[self.name], "updates": update})
        self._waiting = PendingUpdate()
        if self.snapshots and update % self.snapshots == 0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, module: Any) -> None:
        """Keep the average as it is now. Every rank takes part in gathering the weights and asking for the
        folder.
        """
        folder = trainer.log_dir
        state = trainer.strategy.lightning_module_state_dict()
        if not trainer.is_global_zero or folder is None:
            return
        prefix = "ema." if self.name == "ema" else f"averages.{self.name}."
        told = {key: value for key, value in module.facts().items() if key not in ("averages", "network")}
        average = module.averages.metadata[self.name]
        facts = {
            **told,
            "weights": self.name,
            "ema": average,
            "ema_updates": average["updates"],
            "step": optimizer_steps(trainer),
        }
        write_state(
            {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)},
            module.facts()["network"],
            Path(folder) / "snapshots" / f"{self.name}-{average['updates']:08d}.safetensors",
            facts,
        )


@dataclass
class PendingUpdate:
    """Optimizer steps since an average was moved, and the share of it that stays after them."""

    steps: int = 0
    decay: float = 1.0

    def add(self, decay: float) -> None:
        """One more step."""
        self.steps = self.steps + 1
        self.decay = self.decay * decay


class AveragedWeights:
    """An average and its network, whose weights are looked up once: a small network's step is hardly longer
    than the search.
    """

    def __init__(self, average: nn.Module, network: nn.Module):
        self.ours: list[Tensor] = list(average.parameters())
        self.theirs: list[Tensor] = list(network.parameters())
        self.buffers = list(zip(held(average), held(network), strict=True))

    def move(self, decay: float) -> None:
        """average <- decay · average + (1 - decay) · network; buffers are copied."""
        torch._foreach_lerp_(self.ours, self.theirs, 1 - decay)
        for (ours, name), (theirs, same) in self.buffers:
            ours[name].copy_(theirs[same])


def held(network: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where buffers are, and their names there: a network may put another tensor in the place of one at any
    time.
    """
    return [
        (module._buffers, name)
        for module in network.modules()
        for name, of in module._buffers.items()
        if of is not None
    ]


def described(rule: EMAProfile) -> dict[str, Any]:
    """A profile for checkpoints and reports; that of decay and warmup is told by these alone."""
    if type(rule) is Constant:
        return {"decay": rule.decay, "warmup": rule.warmup}
    return {"profile": public_path(type(rule)), **((spec(rule) or {}).get("init_args") or {})}
