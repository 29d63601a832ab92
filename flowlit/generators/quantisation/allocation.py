"""Bits for each layer: the least harm within a budget, as an integer programme."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import FlowlitError

Table = Mapping[str, Mapping[int, float]]
"""Numbers by layer and by bits."""


def least(costs: Table) -> float:
    """Return what the cheapest bits of all layers cost together."""
    return sum(min(choices.values()) for choices in costs.values())


def allocate(harm: Table, costs: Table, budget: float) -> dict[str, int]:
    """Return the bits of each layer, of the least sum of harm whose costs do not exceed a budget.

    One variable for each layer and width is 0 or 1, one of each layer is 1 (MixDQ, 2405.17873). Harm has to
    add up, as powers of noise do: decibels do not.

    Args:
        harm: of each layer alone at each number of bits.
        costs: likewise, as bytes.
        budget: in the units of the costs.

    Raises:
        FlowlitError: for a budget below the least.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = [(name, bits) for name in harm for bits in sorted(harm[name])]
    objective = np.array([harm[name][bits] for name, bits in choices], dtype=np.float64)
    price = np.array([costs[name][bits] for name, bits in choices], dtype=np.float64)
    one_each = np.array([[name == other for other, _ in choices] for name in harm], dtype=np.float64)
    if not np.isfinite(objective).all() or not np.isfinite(price).all():
        raise FlowlitError("the harm of a layer is not finite; the rounded network makes no images")
    if budget < least(costs):
        raise FlowlitError(f"the budget is {budget:g}; expected at least {least(costs):g}")
    unit = max(float(objective.max()), 1e-300)
    result = milp(
        objective / unit,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(price[None], -np.inf, budget)],
        bounds=Bounds(0, 1),
        integrality=np.ones(len(choices)),
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise FlowlitError(f"bits could not be chosen ({result.message}); choose another budget")
    chosen = {name: bits for (name, bits), taken in zip(choices, result.x, strict=True) if taken > 0.5}
    return {name: chosen[name] for name in harm}
