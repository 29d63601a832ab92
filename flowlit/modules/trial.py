"""One call of a network at set-up, so that one that does not fit is refused in words, and before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._engine.sharding import parts
from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..types import Codec, Cond, Noise, Pair, classes_of, reads_of
from .averages import join_names

ROWS = 2


def try_on_training_data(module: Any) -> None:
    """Call the network of a ``FlowModule`` once on rows like those of its training data.

    One that is divided among devices is left to the first step, and so are couplings and objectives of other
    packages, which may call it otherwise.

    Raises:
        FlowlitError: if it fails on them, or returns no velocity.
    """
    trainer = module.trainer
    data: Any = getattr(trainer, "datamodule", None)
    callers = (getattr(data, "coupling", None), module.objective)
    ours = all(type(caller).__module__.startswith("flowlit.") for caller in callers)
    if getattr(data, "pairs", None) is None or not ours or parts(module.network):
        return
    x, cond = first_rows(data.pairs, module.codec, trainer.strategy.root_device)
    check_conditions(module.network, cond)
    precision = trainer.precision_plugin
    x, cond = precision.convert_input((x, cond))
    try_out(module.network, x, cond, precision.forward_context())


def check_conditions(network: nn.Module, cond: Cond) -> None:
    """Refuse training data without a condition that the network reads, each (B, …).

    A second time ``r`` is the objective's to draw, and not the data's.

    Raises:
        FlowlitError: naming the conditions.
    """
    name = type(network).__name__
    classes = classes_of(network)
    if classes and "label" not in cond:
        raise FlowlitError(
            f"{name} knows {classes} classes, but the training data brings no labels; give them "
            "(labels: true for images), or num_classes: 0"
        )
    missing = (reads_of(network) or frozenset()) - {"label", "r", *cond}
    if missing:
        raise FlowlitError(
            f"{name} reads {join_names(missing)}, but the conditions of the training data are "
            f"{join_names(cond)}; use a coupling whose pairs have them all"
        )


def first_rows(pairs: Any, codec: Codec, device: torch.device) -> tuple[Tensor, Cond]:
    """Return blank x (2, C, H, W), and conditions (2, …) of the first row of a data set."""
    row = getattr(pairs, "pairs", pairs)[0]
    if isinstance(row, (Pair, Noise)):
        shape = tuple(row.x0.shape)
        cond = row.cond
    else:
        shape = codec.encoded_shape(row["x1"].shape)
        cond = row["cond"]
    x = torch.zeros(ROWS, *shape, device=device)
    return x, {name: value.to(device).expand(ROWS, *value.shape) for name, value in cond.items()}


def try_out(network: nn.Module, x: Tensor, cond: Cond, precision: AbstractContextManager[Any]) -> None:
    """Call a network once as training does, without any effect on it or on random draws.

    Args:
        network: to be trained.
        x: (B, C, H, W).
        cond: conditions (B, …).
        precision: context that training computes in.

    Raises:
        FlowlitError: if it fails, or returns anything else than a velocity.
    """
    t = torch.linspace(0, 1, len(x), device=x.device)
    try:
        with untouched(network, x.device), precision:
            evaluate(network, x, t, cond)
    except (FlowlitError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        name = type(network).__name__
        given = ", ".join(f"{key} {tuple(value.shape)}" for key, value in cond.items())
        reason = str(error).strip().partition("\n")[0] or "no reason given"
        raise FlowlitError(
            f"{name} fails on the training data: called as network(x, t, cond) with x {tuple(x.shape)}, t "
            f"{tuple(t.shape)} and cond {{{given}}}, it raised {type(error).__name__}: {reason}; expected a "
            f"velocity {tuple(x.shape)}"
        ) from error


@contextmanager
def untouched(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a network into eval mode, uncompiled and without gradients; take all back at the end.

    Buffers and random draws are taken back, too. A compiled network would be compiled for this batch.
    """
    states = [(module, module.training, module._compiled_call_impl) for module in network.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    network.eval()
    for module in network.modules():
        module._compiled_call_impl = None
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode, compiled in states:
            module.training = mode
            module._compiled_call_impl = compiled
        for module, name, buffer, before in buffers:
            if not torch.equal(buffer, before):  # what repeats one number cannot be written
                buffer.copy_(before)
            module._buffers[name] = buffer
