"""A run in a checkpoint: steps, loops, optimizers and averages, as Lightning and flowlit write them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from ..._support.schema import Count, Format
from .facts import Facts, Version

MEND = "use an older checkpoint, or fetch it again"

Steps = Annotated[int, Meta(ge=0, le=10**9)]
"""Optimizer steps; more than any run has."""


class Counter(Struct):
    """Counts of one kind of work."""

    ready: Count
    completed: Count
    started: Count = 0
    processed: Count = 0


class Progress(Struct):
    """Counts of a whole run, and of its present epoch."""

    total: Counter
    current: Counter


class OptimizerStep(Struct):
    """Progress of the steps of optimizers."""

    step: Progress


class OptimizerProgress(Struct):
    """Progress of automatic optimisation."""

    optimizer: OptimizerStep


class FitLoop(Struct):
    """Progress of a fit, and whether the validation after its last step is still to come."""

    epochs: Progress = field(name="epoch_progress")
    batches: Progress = field(name="epoch_loop.batch_progress")
    validated: Progress = field(name="epoch_loop.val_loop.batch_progress")
    logged: dict[str, Count] = field(name="epoch_loop.state_dict")
    automatic: OptimizerProgress = field(name="epoch_loop.automatic_optimization.optim_progress")
    manual: Progress = field(name="epoch_loop.manual_optimization.optim_step_progress")
    validate_first: bool = False


class Loops(Struct):
    """Loops of Lightning's trainer."""

    fit_loop: FitLoop


class OptimizerState(Struct):
    """State of an optimizer: moments by the number of their parameter, and settings by groups of those."""

    state: dict[Any, dict[str, Any]]
    param_groups: list[dict[str, Any]]

    def __post_init__(self) -> None:
        if not all(isinstance(group.get("params"), list) for group in self.param_groups):
            raise ValueError("param_groups: expected params in each group")


class Waiting(Struct):
    """Steps since the last move of an average."""

    steps: Count
    decay: Annotated[float, Meta(ge=0, le=1)]


class Samples(Struct):
    """Rows of its data that a run has seen."""

    batch_size: Count | None = None
    accumulated: Annotated[int, Meta(ge=1)] = 1
    batches: Count = 0
    rows: Count = 0


class Weights(Struct):
    """Weights of a module, and the step that they are of."""

    state_dict: dict[str, Any]
    version: Version | None = field(name="pytorch-lightning_version", default=None)
    """Of Lightning, which migrates older files."""
    global_step: Steps = 0
    epoch: Count = 0
    flowlit: Facts = field(default_factory=Facts)
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    optimizer_states: list[OptimizerState] = field(default_factory=list)

    def __post_init__(self) -> None:
        claimed = [("ema", self.flowlit.ema_updates), *_named_averages(self.flowlit)]
        for part, updates in claimed:
            if updates and not any(name.startswith(f"{part}.") for name in self.state_dict):
                raise ValueError(f"flowlit: {part} has {updates} updates, but there are no tensors of it")


class Run(Weights, kw_only=True):
    """Everything that a run goes on from."""

    version: Version = field(name="pytorch-lightning_version")
    global_step: Steps
    epoch: Count
    loops: Loops
    optimizer_states: list[OptimizerState]
    lr_schedulers: list[dict[str, Any]]
    callbacks: dict[str, Any] = field(default_factory=dict)
    averages_waiting: dict[str, Waiting] = field(default_factory=dict)
    samples: Samples = field(name="FlowDataModule", default_factory=Samples)

    def __post_init__(self) -> None:
        super().__post_init__()
        loop = self.loops.fit_loop
        steps = {loop.automatic.optimizer.step.total.completed, loop.manual.total.completed}
        if self.global_step not in steps:
            raise ValueError(f"global_step: it is {self.global_step}, but its loops are at step {max(steps)}")


def _named_averages(facts: Facts) -> list[tuple[str, int]]:
    return [(f"averages.{name}", average.updates) for name, average in (facts.averages or {}).items()]


WEIGHTS = Format(Weights, "checkpoint", MEND)
RUN = Format(Run, "checkpoint to go on from", MEND)
