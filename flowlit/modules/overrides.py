"""Settings of optimizers and schedulers, in which the configuration wins over a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._engine.loops import scale_learning_rate
from ..errors import FlowlitError


def override(checkpoint: dict[str, Any], before: list[Mapping[str, Any]], now: list[Any]) -> None:
    """Write the configured settings of each network's optimizer and scheduler into a checkpoint.

    ``before`` and ``now`` are the configurations of the trained networks, in the order of their optimizers.
    """
    schedulers = iter(checkpoint.get("lr_schedulers", []))
    for state, old, new in zip(checkpoint.get("optimizer_states", []), before, now, strict=False):
        scheduled = [next(schedulers)] if old.get("lr_scheduler") else []
        part = {"hyper_parameters": old, "optimizer_states": [state], "lr_schedulers": scheduled}
        override_optimizer(part, new.get("optimizer"))
        override_scheduler(part, new.get("lr_scheduler"))


def override_optimizer(checkpoint: dict[str, Any], now: Any) -> None:
    """Write changed settings of the optimizer into a checkpoint, whose state has the old ones.

    A learning rate is scaled, since its scheduler may have moved it.

    Raises:
        FlowlitError: if it is an optimizer of another class.
    """
    before = checkpoint.get("hyper_parameters", {}).get("optimizer")
    if not isinstance(now, dict) or not isinstance(before, dict):
        return
    if now.get("class_path") != before.get("class_path"):
        raise FlowlitError(
            f"the checkpoint's optimizer is {before.get('class_path')}, now {now.get('class_path')}, which "
            "cannot go on from its state; start a new run from its weights instead "
            "(network: flowlit.networks.pretrained)"
        )
    old = before.get("init_args") or {}
    new = now.get("init_args") or {}
    changed = {name: value for name, value in new.items() if name in old and old[name] != value}
    factor = changed.pop("lr", 1.0) / old["lr"] if "lr" in changed and old["lr"] else 1.0
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            group.update({name: value for name, value in plain.items() if name in group})
    scale_learning_rate(checkpoint, factor)


def override_scheduler(checkpoint: dict[str, Any], now: Any) -> None:
    """Write changed arguments of the same learning-rate scheduler into a checkpoint."""
    before = checkpoint.get("hyper_parameters", {}).get("lr_scheduler")
    if not isinstance(now, dict) or not isinstance(before, dict):
        return
    old = before.get("init_args") or {}
    new = now.get("init_args") or {}
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    for scheduler in checkpoint.get("lr_schedulers", []):
        scheduler.update({name: value for name, value in changed.items() if name in scheduler})
