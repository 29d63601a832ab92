"""Inputs of a generator: noise, conditions and labels, brought into one form or refused before any work."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._support.velocities import OWN_CONDITIONS
from ..errors import FlowlitError
from ..ranges import as_whole
from ..types import Cond, reads_of


def whole_number(value: Any, name: str, low: int = 0, high: int | None = None) -> int:
    """Return an int of a whole number in a range.

    Raises:
        FlowlitError: naming what was given and the range that was expected.
    """
    number = as_whole(value)
    if number is None or number < low or (high is not None and number > high):
        end = f"to {high}" if high is not None else "on"
        raise FlowlitError(f"{name} is {reprlib.repr(value)}; expected a whole number from {low} {end}")
    return number


def check_kind(value: Any, name: str, kind: type) -> None:
    """Refuse an argument of another kind.

    Raises:
        FlowlitError: naming both; a class is another thing than an object of it.
    """
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        hint = f"; write {value.__name__}(…)" if isinstance(value, type) and issubclass(value, kind) else ""
        raise FlowlitError(f"{name} is {what}; expected an object of {kind.__name__}{hint}")


def as_device(device: Any) -> torch.device:
    """Return a device of this machine.

    Raises:
        FlowlitError: if it has none of that name.
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise FlowlitError(f"device is {reprlib.repr(device)}; {_devices()}") from error
    if place.type == "meta":
        raise FlowlitError(f"device is {reprlib.repr(device)}, which holds no numbers; {_devices()}")
    return place


def _devices() -> str:
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return f"expected one of this machine: {', '.join(names)}"


def sizes(shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple.

    Raises:
        FlowlitError: if it is none, or a size is no number of pixels.
    """
    if not isinstance(shape, (tuple, list)):
        raise FlowlitError(f"shape is {reprlib.repr(shape)}; expected sizes (c, h, w)")
    return tuple(whole_number(size, "a size of shape", 1) for size in shape)


def names_of_classes(names: Any, num_classes: int) -> tuple[str, ...] | None:
    """Return the names of class 0, 1, …; None if there are none.

    Raises:
        FlowlitError: unless they are texts, all different, one for each class.
    """
    if names is None:
        return None
    given = tuple(names) if isinstance(names, (list, tuple)) else ()
    texts = {name for name in given if isinstance(name, str)}
    if not given or len(texts) != len(given) or len(given) != (num_classes or len(given)):
        raise FlowlitError(
            f"class_names is {reprlib.repr(names)}; expected {num_classes or 'the'} different names, in order"
        )
    return given


def as_tensor(value: Any, name: str) -> Tensor:
    """Return a tensor (B, …) of a tensor or a NumPy array (B, …), which is not changed.

    Raises:
        FlowlitError: for anything else, and for tensors without dense values.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        return value
    kind = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
    raise FlowlitError(f"{name} is a {kind}; expected a tensor or a NumPy array of numbers")


def noise_to_start_from(x0: Any, network: nn.Module, shape: Sequence[int] | None) -> Tensor:
    """Return noise (B, c, h, w) as float32; as float64 if the network is so.

    Args:
        x0: tensor or NumPy array (B, c, h, w) of floating-point numbers.
        network: that it is for.
        shape: (c, h, w), if it is known.

    Raises:
        FlowlitError: for whole numbers, another shape, no rows, and values that are not finite.
    """
    noise = as_tensor(x0, "noise")
    if not noise.is_floating_point() or noise.itemsize == 1:
        raise FlowlitError(f"noise is {noise.dtype}; expected floating-point numbers, N(0, 1)")
    right = noise.ndim == 4 and len(noise) > 0 and (shape is None or tuple(noise.shape[1:]) == tuple(shape))
    if not right or not noise.numel():
        expected = "B, c, h, w" if shape is None else ", ".join(map(str, ("B", *shape)))
        raise FlowlitError(f"noise has shape {tuple(noise.shape)}; expected ({expected}), B at least 1")
    if not noise.isfinite().all():
        raise FlowlitError("noise is not finite everywhere (NaN or infinity); expected N(0, 1)")
    first = next(network.parameters(), noise)
    return noise.to(first.device, torch.float64 if first.dtype == torch.float64 else torch.float32)


def check_reads_noise(network: nn.Module, command: str) -> None:
    """Refuse a network that reads more than noise and classes, for a command that has nothing else to give.

    Raises:
        FlowlitError: with what it reads.
    """
    others = sorted((reads_of(network) or frozenset()) - OWN_CONDITIONS)
    if others:
        raise FlowlitError(
            f"the network reads {' and '.join(others)}, and flowlit {command} generates from noise and "
            "classes alone; expected a network that does, too"
        )


def half_precision_of(network: nn.Module) -> torch.dtype | None:
    """Return bfloat16 or float16 if some of a network's weights are so; None if none are.

    >>> half_precision_of(nn.Linear(1, 1).bfloat16())
    torch.bfloat16
    """
    halves = (torch.bfloat16, torch.float16)
    return next((weight.dtype for weight in network.parameters() if weight.dtype in halves), None)


def conditions(cond: Any, like: Tensor, num_classes: int) -> Cond:
    """Return conditions of a batch on its device; labels as int64 (B,).

    Args:
        cond: tensors or NumPy arrays (B, …) by name.
        like: the noise (B, c, h, w).
        num_classes: of the labels; 0 if it is not known.

    Raises:
        FlowlitError: for other numbers of rows, and for labels that are no classes.
    """
    if not isinstance(cond, Mapping):
        raise FlowlitError(f'conditions are a {type(cond).__name__}; expected a dict, as {{"label": tensor}}')
    unnamed = [name for name in cond if not isinstance(name, str)]
    if unnamed:
        raise FlowlitError(f'condition {unnamed[0]!r} has no name; expected text, as "label"')
    tensors = {name: as_tensor(value, f"condition {name!r}").to(like.device) for name, value in cond.items()}
    for name, tensor in tensors.items():
        if tensor.ndim < 1 or len(tensor) != len(like):
            raise FlowlitError(
                f"condition {name!r} has shape {tuple(tensor.shape)}; expected ({len(like)}, …), a row for "
                "each image"
            )
    if "label" in tensors:
        tensors["label"] = _class_numbers(tensors["label"], num_classes)
    return tensors


def _class_numbers(label: Tensor, num_classes: int) -> Tensor:
    """Return labels (B,) as int64 (B,)."""
    fractional = label.is_floating_point() or label.is_complex() or label.dtype == torch.bool
    if fractional or label.ndim != 1:
        raise FlowlitError(
            f"labels are {label.dtype} {tuple(label.shape)}; expected whole numbers ({len(label)},), one "
            "class an image (one-hot: label.argmax(1))"
        )
    label = label.long()
    low = int(label.min())
    high = int(label.max())
    if low < 0 or (num_classes and high >= num_classes):
        end = f" to {num_classes - 1}" if num_classes else " on"
        raise FlowlitError(f"labels run from {low} to {high}; expected classes from 0{end}")
    return label
