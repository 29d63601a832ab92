"""A budget of time: steps of the trainings from minutes, by the speed of this machine.

The speed is that of one stage's training, measured in a process of its own and kept in the recipe's root, so
that the same command has the same plan. What other work costs stands in the recipe, in parts of that.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from ..._support.files import short_hash, write_atomically
from ..._support.schema import Format
from ...errors import FlowlitError
from .children import answer, answer_of, leave_with_parent
from .stage import Stage

if TYPE_CHECKING:
    import lightning.pytorch as pl

SECONDS = 3.0
"""Time that is measured, at least."""

STEPS = 5
FEWEST = 10
"""Steps of a stage at least; pairs are enough for one batch."""

Part = Annotated[float, Meta(gt=0, le=1)]
Cost = Annotated[float, Meta(gt=0)]


class Count(msgspec.Struct, forbid_unknown_fields=True):
    """A number that follows from a share of the time, and from what one of it costs."""

    share: Part
    batches: Cost | None = None
    """Cost of a step, in steps of the stage that is measured."""
    images: Cost | None = None
    """Cost of a pair, in images of that stage."""


class Budget(msgspec.Struct, forbid_unknown_fields=True):
    """Numbers of steps and pairs, by variable, and the stage whose speed counts."""

    stage: str
    counts: dict[str, Count]


class Speed(msgspec.Struct):
    """Speed of a stage's training on this machine."""

    key: str
    seconds: Annotated[float, Meta(gt=0)]
    """Of a step."""
    batch_size: Annotated[int, Meta(gt=0)]
    format: str = "flowlit-speed"
    version: int = 1


FORMAT = Format(Speed, "record of speed", "remove it", "flowlit-speed")


def read_budget(path: str, budget: Any, stages: Sequence[Stage]) -> Budget | None:
    """Return the budget of a recipe's file; None if it has none.

    Raises:
        FlowlitError: if it has another form, or names no stage that trains.
    """
    if budget is None:
        return None
    try:
        known = msgspec.convert(budget, Budget)
        if known.stage not in [stage.name for stage in stages if stage.command == "fit"]:
            raise ValueError(f"stage is {known.stage!r}, expected one whose command is fit")
        for name, count in known.counts.items():
            if (count.batches is None) == (count.images is None):
                raise ValueError(f"{name}: expected one of batches and images")
    except ValueError as error:
        raise FlowlitError(f"{path}: budget: {error}; it has stage and counts") from error
    return known


def counted(
    budget: Budget, minutes: float, stages: Sequence[Stage], root: Path, dry_run: bool, trust: bool
) -> tuple[dict[str, int], str]:
    """Return the variables that a budget sets, and a line on them; none while the speed is not known.

    Args:
        budget: of the recipe.
        minutes: of all trainings.
        stages: with their variables in place.
        root: has the record of the speed.
        dry_run: measure nothing.
        trust: classes of any package may be built.

    Raises:
        FlowlitError: if there is no time, or the speed cannot be measured.
    """
    if type(minutes) not in (int, float) or not 0 < minutes < 1e6:
        raise FlowlitError(f"vars.minutes is {minutes!r}; expected a number above 0")
    stage = next(stage for stage in stages if stage.name == budget.stage)
    key = short_hash(json.dumps(stage.content(), sort_keys=True, default=str))
    speed = _recorded(root, key)
    if speed is None and dry_run:
        return {}, f"{minutes:g} minutes: speed is measured, and steps are set, when it runs"
    speed = speed or _measured(stage, root, key, trust)
    counts = numbers(budget.counts, 60 * minutes, speed)
    words = ", ".join(f"{name} {number:,}" for name, number in counts.items())
    return counts, f"{minutes:g} minutes at {1000 * speed.seconds:.0f} ms a step of {stage.name}: {words}"


def numbers(counts: Mapping[str, Count], seconds: float, speed: Speed) -> dict[str, int]:
    """Return how many steps or pairs fit into their shares of the time, in two digits.

    >>> numbers({"steps": Count(0.5, batches=2), "pairs": Count(0.5, images=8)}, 60, Speed("", 0.1, 32))
    {'steps': 150, 'pairs': 1200}
    """
    result: dict[str, int] = {}
    for name, count in counts.items():
        cost = count.batches if count.batches is not None else (count.images or 0) / speed.batch_size
        number = seconds * count.share / (speed.seconds * cost)
        fewest = FEWEST if count.images is None else speed.batch_size
        result[name] = max(fewest, int(float(f"{number:.1e}")))
    return result


def _record_path(root: Path, key: str) -> Path:
    return root / ".speed" / f"{key}.json"


def _recorded(root: Path, key: str) -> Speed | None:
    with suppress(FlowlitError, OSError):
        path = _record_path(root, key)
        speed = FORMAT.check(FORMAT.read(path), path)
        return speed if speed.key == key else None
    return None


def _measured(stage: Stage, root: Path, key: str, trust: bool) -> Speed:
    """Measure a stage's speed in a process of its own, and keep it."""
    print(f"measuring the speed of {stage.name} …", file=sys.stderr, flush=True)
    failed = f"speed of {stage.name} cannot be measured"
    facts = answer_of(__name__, stage.arguments(root), trust, failed)
    speed = msgspec.convert({"key": key, **facts}, Speed)
    write_atomically(_record_path(root, key), json.dumps(msgspec.to_builtins(speed)).encode())
    return speed


def seconds_per_step(trainer: pl.Trainer, model: Any, data: Any) -> float:
    """Train a model on noise for some steps; return the seconds that one takes."""
    import torch

    from ...types import Pair

    device = trainer.strategy.root_device
    model.to(device).train()
    noise = data.noise.batch([row % len(data.noise) for row in range(data.batch_size)])
    cond = {name: value.to(device) for name, value in noise.cond.items()}
    x0 = noise.x0.to(device)
    optimizer = torch.optim.Adam(model.network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model.objective(model.network, Pair(x0, x0.flip(0), cond))["loss"].backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()
    step()
    start = time.perf_counter()
    steps = 0
    while steps < STEPS or time.perf_counter() - start < SECONDS:
        step()
        steps += 1
    return (time.perf_counter() - start) / steps


def measure(words: list[str]) -> None:
    """Build what a command would, and answer with the seconds of a training step."""
    import jsonargparse

    from .._line.errors import described
    from ..lightning import FlowCLI

    leave_with_parent()

    class Measuring(FlowCLI):
        """``fit`` without fitting."""

        def _run_subcommand(self, subcommand: str) -> None:
            seconds = seconds_per_step(self.trainer, self.model, self.datamodule)
            answer({"seconds": seconds, "batch_size": self.datamodule.batch_size})

    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        Measuring.run(words)
    except Exception as error:
        sys.exit(f"flowlit: error: {described(error)}")


if __name__ == "__main__":
    measure(sys.argv[1:])
