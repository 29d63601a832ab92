"""One call of a network at set-up, so that one that does not fit is refused in words, and before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._engine.sharding import parts
from .._support.velocities import OWN_CONDITIONS, evaluate
from ..errors import FlowlitError
from ..frozen import Frozen
from ..types import Codec, Cond, Coupling, Noise, Pair, classes_of, reads_of
from .averages import join_names

ROWS = 2


def try_on_training_data(module: Any) -> None:
    """Call the network of a ``FlowModule`` once on rows like those of its training data.

    One that is divided among devices is left to the first step, and so are couplings and objectives of other
    packages, which may call it otherwise.

    Raises:
        FlowlitError: if it fails on them, or returns no velocity.
    """
    rows = rows_to_try(module)
    if rows is None:
        return
    x, cond = rows
    cond = module.objective.conditions(cond)
    check_conditions(module.network, cond)
    try_out(module.network, x, cond, module.trainer.precision_plugin.forward_context())


def try_game(module: Any) -> None:
    """Compute both losses of a ``CriticModule`` once on rows like those of its training data, as above.

    Raises:
        FlowlitError: if guide, critic and generator do not take the same images and conditions.
    """
    rows = rows_to_try(module)
    if rows is None:
        return
    x, cond = rows
    guides = [value for part in module.objective.modules() for value in vars(part).values()]
    networks = [guide.network.to(x.device) for guide in guides if isinstance(guide, Frozen)]
    try:
        with ExitStack() as stack:
            for network in (module.network, module.critic.network, *networks):
                stack.enter_context(untouched(network, x.device))
            stack.enter_context(module.trainer.precision_plugin.forward_context())
            stack.enter_context(torch.enable_grad())  # of which score identity is made
            pair = Pair(torch.randn_like(x), x, cond)
            module.generator_losses(pair)
            module.critic_losses(pair)
    except (FlowlitError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise FlowlitError(
            f"{type(module.objective).__name__} fails on the training data, x {tuple(x.shape)} and cond "
            f"{{{_described(cond)}}}: {_reason(error)}; expected a guide and a critic that take what the "
            "generator takes"
        ) from error


def rows_to_try(module: Any) -> tuple[Tensor, Cond] | None:
    """Return blank x (2, C, H, W) and conditions (2, …) as training has them; None if it is left to that."""
    trainer = module.trainer
    data: Any = getattr(trainer, "datamodule", None)
    callers = (getattr(data, "coupling", None), module.objective)
    ours = all(type(caller).__module__.startswith("flowlit.") for caller in callers)
    if getattr(data, "pairs", None) is None or not ours or parts(module.network):
        return None
    rows = first_rows(data.pairs, module.codec, trainer.strategy.root_device, data.coupling)
    return trainer.precision_plugin.convert_input(rows)


def check_conditions(network: nn.Module, cond: Cond) -> None:
    """Refuse training data without a condition that the network reads, each (B, …).

    A second time ``r`` and a ``guidance`` are the objective's to draw, and not the data's.

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
    missing = (reads_of(network) or frozenset()) - OWN_CONDITIONS - cond.keys()
    if missing:
        raise FlowlitError(
            f"{name} reads {join_names(missing)}, but the conditions of the training data are "
            f"{join_names(cond)}; use a coupling whose pairs have them all"
        )


def check_same_classes(network: nn.Module, other: nn.Module, role: str) -> None:
    """Refuse a guide or critic of another number of classes than the generator; 0 goes with any.

    Raises:
        FlowlitError: with both numbers.
    """
    classes = classes_of(network)
    theirs = classes_of(other)
    if classes and theirs and classes != theirs:
        raise FlowlitError(
            f"the {role}, {type(other).__name__}, knows {theirs} classes, but the generator {classes}; make "
            "them equal (num_classes)"
        )


def first_rows(
    pairs: Any, codec: Codec, device: torch.device, coupling: Coupling | None = None
) -> tuple[Tensor, Cond]:
    """Return blank x (2, C, H, W), and conditions (2, …) of the first row of a data set, as its coupling
    completes it.
    """
    row = getattr(pairs, "pairs", pairs)[0]
    if isinstance(row, (Pair, Noise)):
        shape = tuple(row.x0.shape)
        cond = row.cond
    else:
        image = row["x1"]
        cond = row["cond"]
        if coupling is not None:
            image, cond = coupling.blank(row["x1"], row["cond"])
        shape = codec.encoded_shape(image.shape)
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
        raise FlowlitError(
            f"{name} fails on the training data: called as network(x, t, cond) with x {tuple(x.shape)}, t "
            f"{tuple(t.shape)} and cond {{{_described(cond)}}}, it raised {_reason(error)}; expected a "
            f"velocity {tuple(x.shape)}"
        ) from error


def _described(cond: Cond) -> str:
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in cond.items())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0] or 'no reason given'}"


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
