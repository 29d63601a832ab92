"""Constants of a graph in 16 bits, those of one shape together: half their size, and one entry for many."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

FINE = 2.0**-10
"""Rounding of a number relative to it, at most."""


def halve(onnx: Any, graph: Any) -> None:
    """Put float32 constants of a graph into float16, from which its first nodes make them again.

    Biases, norms, scales and tables of classes are rounded to 11 bits, which is far below the rounding of
    weights to 8. Runtimes compute these nodes once, when a file is opened. Constants with numbers that
    float16 cannot hold stay as they are, and so do single numbers.

    Args:
        onnx: the package.
        graph: is changed.
    """
    groups: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for tensor in graph.initializer:
        several = tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1
        if several and is_fine(onnx.numpy_helper.to_array(tensor)):
            groups[tuple(tensor.dims)].append(tensor)
    moved = {tensor.name for group in groups.values() for tensor in group}
    others = [tensor for tensor in graph.initializer if tensor.name not in moved]
    make = onnx.helper.make_node
    first = []
    for number, group in enumerate(groups.values()):
        name = f"halves/{number}"
        values = np.concatenate([onnx.numpy_helper.to_array(tensor) for tensor in group])
        others.append(onnx.numpy_helper.from_array(values.astype(np.float16), name))
        results = [tensor.name for tensor in group]
        joined = results[0] if len(group) == 1 else f"{name}/whole"
        first.append(make("Cast", [name], [joined], to=onnx.TensorProto.FLOAT))
        if len(group) > 1:
            first.append(make("Split", [joined], results, num_outputs=len(group)))
    nodes = [*first, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(others)
    graph.node.extend(nodes)


def is_fine(values: Any) -> bool:
    """Return whether float16 holds numbers to 11 bits.

    >>> is_fine(np.float32([0, 0.1, -3e4])), is_fine(np.float32([1, 1e-7])), is_fine(np.float32([1e5]))
    (True, False, False)
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16).astype(np.float32)
    return bool((np.abs(rounded - values) <= FINE * np.abs(values)).all())
