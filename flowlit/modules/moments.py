"""States of optimizers in a checkpoint, and the parameters that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..errors import FlowlitError
from .optimizers import optimizer_of

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg")
"""Tensors of PyTorch's optimizers that have the shape of their parameter."""


def check_moments(players: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Refuse states of optimizers that are of other parameters.

    Args:
        players: the trained networks, each with ``make_optimizer`` and ``make_scheduler``.
        states: of their optimizers, in a checkpoint.

    Raises:
        FlowlitError: naming the first difference, which PyTorch would find in the first step.
    """
    optimizers = [optimizer_of(player)["optimizer"] for player in players]
    if len(optimizers) != len(states):
        raise FlowlitError(
            f"the checkpoint has {len(states)} optimizers, this run has {len(optimizers)}; take the "
            "config.yaml beside it"
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        _check(optimizer, state)


def _check(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    groups = [len(group["params"]) for group in optimizer.param_groups]
    before = [len(group["params"]) for group in state["param_groups"]]
    if groups != before:
        raise FlowlitError(
            f"the optimizer of the checkpoint has groups of {before} parameters, this run {groups}; take the "
            "config.yaml beside it, or start a new run from its weights (flowlit.networks.pretrained)"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if name in MOMENTS and isinstance(value, Tensor) and value.shape != parameter.shape:
                raise FlowlitError(
                    f"the checkpoint is damaged: {name} of parameter {number} is {tuple(value.shape)} there, "
                    f"{tuple(parameter.shape)} here; use an older one"
                )
