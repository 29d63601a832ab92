"""Numbers that move during training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ..._engine.lightning import is_logging_step, optimizer_steps
from ...errors import FlowlitError
from ...ranges import Checked
from ...types import Schedule


class Anneal(Checked, Callback):
    """Set ``module.<attribute>`` to ``schedule(optimizer step)`` before every training batch, and log it.

    Stateless, so a resumed run continues exactly.

    Args:
        schedule: step -> value.
        attribute: dotted path from the module; β of annealing reflow by default.
    """

    def __init__(self, schedule: Schedule, attribute: str = "objective.beta"):
        self.schedule = schedule
        self.attribute = attribute

    @property
    def state_key(self) -> str:
        return f"Anneal[{self.attribute}]"

    def _owner(self, module: pl.LightningModule) -> tuple[Any, str]:
        *path, name = self.attribute.split(".")
        owner: Any = module
        for i, part in enumerate([*path, name]):
            if not hasattr(owner, part):
                at = ".".join([type(module).__name__, *path[:i]])
                names = sorted(
                    k for k in {**vars(owner), **getattr(owner, "_modules", {})} if not k.startswith("_")
                )
                raise FlowlitError(
                    f"Anneal: {at} has no attribute {part!r} (from {self.attribute!r}); it has "
                    f"{', '.join(names)}"
                )
            if i < len(path):
                owner = getattr(owner, part)
        return owner, name

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._owner(pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        owner, name = self._owner(pl_module)
        value = self.schedule(optimizer_steps(trainer))
        setattr(owner, name, value)
        if is_logging_step(trainer):
            pl_module.log(f"anneal/{name}", value, batch_size=1)
