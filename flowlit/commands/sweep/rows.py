"""The rows of a sweep: a solver each, with its cost and its numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ...solvers import Guided
from ...types import Solver

COSTS = ("steps", "evaluations", "rtol", "atol", "times")
"""Settings of a solver by which the members of a family differ in their cost."""

LONG = 40
"""Signs of a setting from which on its class stands for it."""


def sweep_rows(
    metrics: Mapping[str, float], spread: Mapping[str, float], solvers: Mapping[str, Solver]
) -> list[dict[str, Any]]:
    """Return a row for each solver, by its NFE, of each number whose tag ends in its name, and its spread."""
    rows: list[dict[str, Any]] = []
    for name, solver in solvers.items():
        own = {
            tag.removesuffix(f"/{name}"): value for tag, value in metrics.items() if tag.endswith(f"/{name}")
        }
        spreads = {f"{key}_spread": spread[f"{key}/{name}"] for key in own if f"{key}/{name}" in spread}
        numbers_of = dict(sorted({**own, **spreads}.items()))
        rows.append({"solver": name, "family": family(solver), **guidance(solver), **numbers_of})
    return sorted(rows, key=lambda row: row.get("nfe", 0.0))


def guidance(solver: Solver) -> dict[str, Any]:
    """Return the scale of a guided solver, and the solver inside with its costs; {} for others.

    >>> from flowlit.solvers import Heun
    >>> guidance(Guided(Heun(3), 2.0)), guidance(Heun(3))
    ({'guidance': 2.0, 'guided': 'Heun, steps 3'}, {})
    """
    if not isinstance(solver, Guided):
        return {}
    inside = solver.solver
    values = {name: getattr(inside, name, None) for name in COSTS}
    costs = [f"{name} {value:g}" for name, value in values.items() if isinstance(value, int | float)]
    return {"guidance": float(solver.scale), "guided": ", ".join([family(inside), *costs])}


def family(solver: Solver) -> str:
    """Return the class of a solver with those settings that differ from its defaults, but not the costs.

    >>> from flowlit.solvers import DPMSolver, Heun
    >>> family(Heun(3)), family(DPMSolver(8, order=2))
    ('Heun', 'DPMSolver(order=2)')
    """
    if isinstance(solver, Guided):
        return f"{family(solver.solver)}, guidance {solver.scale:g}"
    kind = type(solver).__name__
    if not is_dataclass(solver):
        return kind
    values = {field.name: (getattr(solver, field.name), field.default) for field in fields(solver)}
    others = [
        f"{name}={repr(value) if len(repr(value)) < LONG else type(value).__name__}"
        for name, (value, default) in values.items()
        if name not in COSTS and default is not MISSING and value != default
    ]
    return f"{kind}({', '.join(others)})" if others else kind


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as comma-separated values, with a header."""
    text = io.StringIO()
    header = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
