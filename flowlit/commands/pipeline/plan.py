"""The decision about a stage: what happens to it, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..._support.files import file_hash, short_hash
from .stage import Stage
from .stamps import Inputs, Stamps, difference
from .state import read_state

State = dict[str, Any]

EVALUATE = ("validate", "test")
"""Commands whose results a table may have."""


@dataclass
class Plan:
    """An action for a stage, and its reason."""

    stage: Stage
    action: Literal["done", "resume", "run"]
    reason: str
    key: str
    content: dict[str, Any]
    inputs: Inputs = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Inputs that are not there."""


def decide(
    stage: Stage, root: Path, written: list[Path], upstream: Mapping[str, Plan], stamps: Stamps
) -> Plan:
    """Decide about a stage.

    Args:
        stage: of the recipe.
        root: of the recipe.
        written: folders of all stages, whose files are results and not inputs.
        upstream: plans of the stages that it needs.
        stamps: of the inputs of all stages.
    """
    content = stage.content()
    inputs, missing = stage.inputs(root, written, stamps)
    state = read_state(stage.folder(root))
    if state is not None:
        inputs = stamps.settled(inputs, state)
    base = _digest([content, {name: plan.key for name, plan in upstream.items()}])
    key = _digest([base, inputs]) if inputs else base
    plan = Plan(stage, "run", "it has not run yet", key, content, inputs, missing)
    if state is not None and _is_of(state, base, inputs):
        recorded = inputs if state.get("inputs") is None else state["inputs"]
        plan = _same(replace(plan, key=state["key"], inputs=recorded), root, state)
    elif put_aside := read_state(stale(stage, root, key)):
        plan.action = "done" if put_aside["done"] else "resume"
        plan.reason = "an earlier run with this configuration is taken up again"
    elif state is not None:
        waiting = [name for name, needed in upstream.items() if needed.action != "done"]
        plan.reason = _changed(plan, state, waiting or stage.needs)
    if missing and plan.action != "done":
        plan.reason += f"; {', '.join(missing)} {'does' if len(missing) == 1 else 'do'} not exist"
    return plan


def _is_of(state: State, base: str, inputs: Inputs) -> bool:
    """Return whether a state belongs to a configuration and its inputs.

    One that was written before inputs were recorded counts, too; so does one whose inputs were recorded after
    its key was made. Inputs that were not there when it ran are what it has made.
    """
    recorded = state.get("inputs")
    if recorded is None:
        return state["key"] == base
    return state["key"] in (base, _digest([base, recorded])) and not _changed_inputs(state, inputs)


def _same(plan: Plan, root: Path, state: State) -> Plan:
    """Complete the plan of a stage that has run, or begun, as it is configured now."""
    lost = plan.stage.lost(root)
    result = root / plan.stage.writes
    if not state["done"]:
        return replace(plan, action="resume", reason="it was interrupted")
    if lost is not None:
        return replace(plan, reason=f"{lost} has disappeared")
    if state.get("result") not in (None, measured(plan.stage, result)):
        return replace(plan, reason=f"{result} was replaced by hand")
    took = f"took {state['seconds']:.0f} s"
    if plan.inputs and state.get("inputs") is None:
        took += f"; changes of {', '.join(plan.inputs)} are noticed from now on"
    return replace(plan, action="done", reason=took)


def _changed(plan: Plan, state: State, needs: list[str]) -> str:
    """Return why a stage that has run must run again."""
    before = state["content"]
    now = plan.content
    changed = [
        f"{key}: {before.get(key, 'unset')} → {now.get(key, 'unset')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    changed += _changed_inputs(state, plan.inputs)
    return f"changed: {'; '.join(changed[:3])}" if changed else f"it depends on {', '.join(needs)}"


def _changed_inputs(state: State, inputs: Inputs) -> list[str]:
    """Return a line for each input that is not what it was, but for those that the stage itself changes."""
    own = state.get("rewritten") or []
    recorded = state.get("inputs") or {}
    return difference({name: stamp for name, stamp in recorded.items() if name not in own}, inputs)


def stale(stage: Stage, root: Path, key: str) -> Path:
    """Return the place where the stage's folder is put aside."""
    return root / ".stale" / f"{stage.folder(root).name}-{key}"


def measured(stage: Stage, result: Path) -> str | None:
    """Hash of what an evaluation wrote: another one by hand into the same folder must not end up in the
    table.
    """
    return file_hash(result) if stage.command in EVALUATE else None


def _digest(content: Any) -> str:
    return short_hash(json.dumps(content, sort_keys=True, default=str))
