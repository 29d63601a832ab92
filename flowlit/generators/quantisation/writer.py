"""Nodes and constants of an ONNX graph with integers."""

from __future__ import annotations

import string
from collections import Counter
from typing import Any

import numpy as np
from torch import nn

from .halves import halve
from .integers import Range, weight_integers, weight_scales
from .layers import Ranges

KINDS = ("Conv", "MatMul", "Gemm")
"""Of nodes that a layer becomes."""

FUSED = ("Add", "Mul", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSigmoid")
"""Of nodes that onnxruntime joins to the one before."""


class Writer:
    """New nodes and constants of one file."""

    def __init__(self, onnx: Any, model: Any):
        self.onnx = onnx
        self.model = model
        self.weights: dict[tuple[str, int], Any] = {}
        self.zeros: set[int] = set()
        self.taken: Counter[str] = Counter()

    def rounded(
        self, node: Any, name: str, layer: nn.Module, bits: int, ranges: Ranges | None, ends: bool
    ) -> list[Any]:
        """Return the nodes that take the place of a layer's."""
        new = [] if (node.input[1], bits) in self.weights else [self._weight(node, layer, bits)]
        node.input[1] = f"{node.input[1]}/{bits}"
        if ranges is not None and ranges.inputs.has_values():
            new += self._activation(node.input[0], f"{node.output[0]}/in", ranges.inputs)
            node.input[0] = f"{node.output[0]}/in"
        new.append(node)
        if ranges is not None and ends and ranges.outputs.has_values():
            result = node.output[0]
            node.output[0] = f"{result}/out"
            new += self._activation(f"{result}/out", result, ranges.outputs)
        for each in sorted(new, key=lambda each: each is not node):
            self.name(each, name)
        return new

    def name(self, node: Any, layer: str) -> None:
        """Give a node its layer's name, with a number after it where the name is taken."""
        self.taken[layer] += 1
        node.name = f"{layer}/{self.taken[layer]}" if self.taken[layer] > 1 else layer

    def _weight(self, node: Any, layer: Any, bits: int) -> Any:
        """Return the node that makes floats of a layer's integers, which become constants."""
        name = node.input[1]
        integers = weight_integers(layer.weight, bits).numpy()
        transposed = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute)
        )
        integers = np.ascontiguousarray(integers.T if transposed else integers)
        kind = self.onnx.TensorProto.INT8 if bits == 8 else self.onnx.TensorProto.INT4
        content = integers.tobytes() if bits == 8 else packed(integers)
        tensor = self.onnx.helper.make_tensor(f"{name}/{bits}/q", kind, integers.shape, content, raw=True)
        self.model.graph.initializer.append(tensor)
        self._constant(f"{name}/{bits}/s", weight_scales(layer.weight, bits).numpy())
        inputs = [f"{name}/{bits}/q", f"{name}/{bits}/s"]
        axis = integers.ndim - 1 if transposed else 0
        dequantise = self.onnx.helper.make_node("DequantizeLinear", inputs, [f"{name}/{bits}"], axis=axis)
        self.weights[name, bits] = dequantise
        return dequantise

    def _activation(self, before: str, after: str, values: Range) -> list[Any]:
        """Return the nodes that round a value to 8 bits."""
        scale, zero = values.scale_and_zero()
        parts = [f"{after}/s", f"zero/{zero}"]
        self._constant(parts[0], np.float32(scale))
        if zero not in self.zeros:
            self.zeros.add(zero)
            self._constant(parts[1], np.uint8(zero))
        make = self.onnx.helper.make_node
        return [
            make("QuantizeLinear", [before, *parts], [f"{after}/q"]),
            make("DequantizeLinear", [f"{after}/q", *parts], [after]),
        ]

    def _constant(self, name: str, value: Any) -> None:
        self.model.graph.initializer.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))

    def finish(self, named: bool) -> None:
        """Remove constants that no node reads any more, and give short names to what is inside.

        Args:
            named: keep the names of all nodes, not of layers alone, and call their results like them.
        """
        graph = self.model.graph
        if any(each.type == self.onnx.AttributeProto.GRAPH for node in graph.node for each in node.attribute):
            return  # whose names are read from within, too
        used = {name for node in graph.node for name in node.input}
        constants = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        if self.weights:
            halve(self.onnx, graph)
        del graph.value_info[:]
        ends = {value.name for value in (*graph.input, *graph.output)}
        inside = [tensor.name for tensor in graph.initializer]
        inside += [name for node in graph.node for name in node.output]
        short = {name: code(i) for i, name in enumerate(name for name in inside if name and name not in ends)}
        if named:
            short |= {name: layer for name, layer in self._results(graph).items() if name in short}
        for tensor in graph.initializer:
            tensor.name = short[tensor.name]
        for node in graph.node:
            plain = [each for each in node.attribute if not (node.op_type == "Conv" and is_default(each))]
            del node.attribute[:]
            node.attribute.extend(plain)
            if not named and node.op_type not in KINDS:
                node.ClearField("name")
            node.input[:] = [short.get(name, name) for name in node.input]
            node.output[:] = [short.get(name, name) for name in node.output]

    def _results(self, graph: Any) -> dict[str, str]:
        """Return names of what layers compute, like which onnxruntime calls some nodes of its own."""
        results: dict[str, str] = {}
        taken: Counter[str] = Counter()
        for node in graph.node:
            before = results.get(node.input[0]) if node.input else None
            if node.name.partition("/")[0] in self.taken:
                results[node.output[0]] = node.name
            elif before is not None and node.op_type in FUSED:
                name = f"{before}/{node.op_type}"
                taken[name] += 1  # a velocity takes part in several steps of ``Adams``
                results[node.output[0]] = f"{name}/{taken[name]}" if taken[name] > 1 else name
        return results


def code(number: int) -> str:
    """Return a short name for a number from 0 on.

    >>> code(0), code(61), code(62)
    ('0', 'Z', '10')
    """
    digits = string.digits + string.ascii_letters
    higher, last = divmod(number, len(digits))
    return (code(higher) if higher else "") + digits[last]


def is_default(attribute: Any) -> bool:
    """Return whether an attribute of a convolution is as it would be without."""
    ones = attribute.name in ("strides", "dilations") and set(attribute.ints) == {1}
    return ones or (attribute.name, attribute.i) == ("group", 1) or attribute.s == b"NOTSET"


def packed(integers: Any) -> bytes:
    """Return whole numbers from -8 to 7 as ONNX has them, two in a byte, the first in the lower half.

    >>> packed(np.array([1, -1, 7], np.int8)).hex()
    'f107'
    """
    flat = integers.astype(np.uint8).ravel() & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
