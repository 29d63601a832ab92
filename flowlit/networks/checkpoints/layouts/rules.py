"""Translate state dicts between our names and another project's, one rule for each of our tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ....errors import FlowlitError
from ..tensors import kind

State = dict[str, Tensor]


def _same(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _one(tensor: Tensor) -> list[Tensor]:
    return [tensor]


class Rule(NamedTuple):
    """One of our tensors, and those of theirs that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    read: Callable[[list[Tensor]], Tensor] = _same
    write: Callable[[Tensor], list[Tensor]] = _one


def same(ours: str, theirs: str, *parts: str) -> list[Rule]:
    """Return rules for equal tensors: weights and biases of a layer, unless other parts are named."""
    return [Rule(f"{ours}.{part}", (f"{theirs}.{part}",)) for part in parts or ("weight", "bias")]


def has_parameters(module: nn.Module) -> bool:
    """Return whether a layer is more than an identity."""
    return any(True for _ in module.parameters())


def same_layers(block: nn.Module, ours: str, theirs: str, layers: Mapping[str, str]) -> list[Rule]:
    """Return rules for equal layers of a block, our names to theirs, but for those without parameters."""
    present = [(our, their) for our, their in layers.items() if has_parameters(block.get_submodule(our))]
    return [rule for our, their in present for rule in same(f"{ours}.{our}", f"{theirs}.{their}")]


class Translated(NamedTuple):
    """A state dict after translation, and what could not be translated."""

    state: State  # in our names
    missing: list[str]  # their names that rules need and the file lacks
    unexpected: list[str]  # their names that no rule reads
    torn: list[str]  # our names whose parts do not fit together


def to_ours(state: Mapping[str, Tensor], rules: Iterable[Rule], unused: Callable[[str], bool]) -> Translated:
    """Apply rules to a state dict in their names, tensors of any shape.

    ``unused`` returns whether a name has no meaning for a velocity.
    """
    ours: State = {}
    missing: list[str] = []
    torn: list[str] = []
    known: set[str] = set()
    for rule in rules:
        known.update(rule.theirs)
        absent = [name for name in rule.theirs if name not in state]
        if absent:
            missing += absent
            continue
        other = [name for name in rule.theirs if kind(state[name]) != "floating-point"]
        if other:
            torn += [f"{name} is {state[name].dtype}, expected floating-point numbers" for name in other]
            continue
        try:
            ours[rule.ours] = rule.read([state[name].float() for name in rule.theirs]).contiguous()
        except (RuntimeError, IndexError, ValueError) as error:
            torn.append(f"{rule.ours} ({', '.join(rule.theirs)}: {str(error).splitlines()[0]})")
    unexpected = [name for name in state if name not in known and not unused(name)]
    return Translated(ours, missing, unexpected, torn)


def to_theirs(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> State:
    """Apply rules to a state dict in our names, tensors of any shape.

    The result is in the order of their ``model.parameters()``: layer by layer.
    """
    layers: dict[str, State] = {}
    for rule in rules:
        for name, tensor in zip(rule.theirs, rule.write(state[rule.ours]), strict=True):
            layers.setdefault(name.rpartition(".")[0], {})[name] = tensor.detach().clone().contiguous()
    return {name: tensor for layer in layers.values() for name, tensor in layer.items()}


def ordered(tensors: list[Any], names: list[str], file: str) -> State:
    """Name a list of tensors; ``names`` in the order of ``model.parameters()``.

    Raises:
        FlowlitError: if there are more or fewer. Shapes are compared when they are loaded.
    """
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise FlowlitError(
            f"{file}: its EMA lists something else than tensors. Read the model's own weights with weights: "
            "raw"
        )
    if len(tensors) != len(names):
        raise FlowlitError(
            f"{file}: its EMA lists {len(tensors)} tensors, its model has {len(names)} parameters; they are "
            "of different networks. Read the model's own weights with weights: raw"
        )
    return dict(zip(names, tensors, strict=True))
