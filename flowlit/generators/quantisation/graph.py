"""ONNX graphs with integers: weights of 8 or 4 bits, activations of 8, by pairs of (De)QuantizeLinear."""

from __future__ import annotations

import hashlib
import json
import string
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ..._support.extras import needed
from ...errors import FlowlitError
from ..export.onnx_file import KEY, LARGEST
from .integers import FLOAT, Range, weight_integers, weight_scales
from .layers import Layers, Ranges, rounds_output

OPSET = 21
"""Of the operators: the first with integers of 4 bits, and with norms of groups as one operator."""

KINDS = ("Conv", "MatMul", "Gemm")
"""Of nodes that a layer becomes."""


class Graph:
    """A generator as an ONNX file of floats, of which others with integers are made.

    Args:
        content: of the file, of opset 21.
        layers: of its network, by name.
    """

    def __init__(self, content: bytes, layers: Layers):
        self.onnx = needed("onnx")
        self.content = content
        self.layers = layers
        model = self.onnx.load_from_string(content)
        self.places = self._places(model)
        self.found = [name for name in layers if name in set(self.places.values())]
        self.numbers: dict[float, float] = {}

    def _places(self, model: Any) -> dict[int, str]:
        """Return the layer of each node that is one, by the bytes of its weights."""
        names: dict[str, str] = {}
        for name, layer in self.layers.items():
            weight = layer.weight.detach().float().numpy()
            for array in (weight, weight.T) if weight.ndim == 2 else (weight,):
                names.setdefault(_digest(array), name)
        weights = {each.name: each for each in model.graph.initializer}
        places = {}
        for number, node in enumerate(model.graph.node):
            if node.op_type in KINDS and len(node.input) > 1 and node.input[1] in weights:
                array = self.onnx.numpy_helper.to_array(weights[node.input[1]])
                digest = _digest(array)
                if digest in names:
                    places[number] = names[digest]
        return places

    def integers(
        self,
        bits: Mapping[str, int],
        ranges: Mapping[str, Ranges],
        facts: Mapping[str, Any],
    ) -> bytes:
        """Return the file with weights of these bits, which has passed ONNX's own checker.

        Args:
            bits: of layers by name; 32 leaves one as it is, and so does a missing one.
            ranges: of activations; empty leaves these as they are.
            facts: for its metadata.

        Raises:
            FlowlitError: if it is too large for an ONNX file.
        """
        model = self.onnx.load_from_string(self.content)
        self._set_numbers(model)
        writer = _Writer(self.onnx, model)
        nodes = []
        for number, node in enumerate(model.graph.node):
            name = self.places.get(number)
            width = FLOAT if name is None else bits.get(name, FLOAT)
            if name is None or width == FLOAT:
                nodes.append(node)
                continue
            given = ranges.get(name)
            ends = rounds_output(self.layers[name], width)
            nodes += writer.rounded(node, name, self.layers[name], width, given, ends)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        writer.finish()
        versions = {"opset": OPSET, "ir": model.ir_version}
        text = json.dumps({**facts, "onnx": versions}, sort_keys=True)
        del model.metadata_props[:]
        self.onnx.helper.set_model_props(model, {KEY: text})
        if model.ByteSize() > LARGEST:
            raise FlowlitError(f"the graph has {model.ByteSize():,} bytes, and an ONNX file 2 GB at most")
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    def replace_numbers(self, numbers: Mapping[float, float]) -> None:
        """Replace constants in the files to come.

        Args:
            numbers: new ones by those that stand there now, each of which is there once.

        Raises:
            FlowlitError: if one is not.
        """
        model = self.onnx.load_from_string(self.content)
        counts = Counter(value for value in map(self._number, model.graph.initializer) if value is not None)
        absent = [value for value in numbers if counts[float(np.float32(value))] != 1]
        if absent:
            raise FlowlitError(f"the graph does not have the number {absent[0]} once; report this, please")
        self.numbers = {float(np.float32(old)): new for old, new in numbers.items()}

    def _set_numbers(self, model: Any) -> None:
        for tensor in model.graph.initializer:
            value = self._number(tensor)
            if value is not None and value in self.numbers:
                array = np.full(tuple(tensor.dims), self.numbers[value], np.float32)
                tensor.CopyFrom(self.onnx.numpy_helper.from_array(array, tensor.name))

    def _number(self, tensor: Any) -> float | None:
        if tensor.data_type != self.onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) != 1:
            return None
        return float(self.onnx.numpy_helper.to_array(tensor).item())


def _digest(array: Any) -> str:
    return f"{array.shape}{hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()}"


class _Writer:
    """New nodes and constants of one file."""

    def __init__(self, onnx: Any, model: Any):
        self.onnx = onnx
        self.model = model
        self.weights: dict[tuple[str, int], Any] = {}

    def rounded(
        self, node: Any, name: str, layer: nn.Module, bits: int, ranges: Ranges | None, ends: bool
    ) -> list[Any]:
        """Return the nodes that take the place of a layer's."""
        new = [] if (node.input[1], bits) in self.weights else [self._weight(node, layer, bits)]
        node.input[1] = f"{node.input[1]}/{bits}"
        node.name = name
        if ranges is not None:
            new += self._activation(node.input[0], f"{node.output[0]}/in", ranges.inputs)
            node.input[0] = f"{node.output[0]}/in"
        new.append(node)
        if ranges is not None and ends:
            result = node.output[0]
            node.output[0] = f"{result}/out"
            new += self._activation(f"{result}/out", result, ranges.outputs)
        return new

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
        parts = [f"{after}/s", f"{after}/z"]
        self._constant(parts[0], np.float32(scale))
        self._constant(parts[1], np.uint8(zero))
        make = self.onnx.helper.make_node
        return [
            make("QuantizeLinear", [before, *parts], [f"{after}/q"]),
            make("DequantizeLinear", [f"{after}/q", *parts], [after]),
        ]

    def _constant(self, name: str, value: Any) -> None:
        self.model.graph.initializer.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))

    def finish(self) -> None:
        """Remove constants that no node reads any more, and give short names to what is inside."""
        graph = self.model.graph
        if any(each.type == self.onnx.AttributeProto.GRAPH for node in graph.node for each in node.attribute):
            return  # whose names are read from within, too
        used = {name for node in graph.node for name in node.input}
        constants = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(constants)
        del graph.value_info[:]
        ends = {value.name for value in (*graph.input, *graph.output)}
        inside = [tensor.name for tensor in graph.initializer]
        inside += [name for node in graph.node for name in node.output]
        short = {name: code(i) for i, name in enumerate(name for name in inside if name and name not in ends)}
        layers = {node.name for node in graph.node if node.op_type in KINDS}
        for tensor in graph.initializer:
            tensor.name = short[tensor.name]
        for node in graph.node:
            plain = [each for each in node.attribute if not (node.op_type == "Conv" and is_default(each))]
            del node.attribute[:]
            node.attribute.extend(plain)
            if node.name not in layers:
                node.ClearField("name")
            node.input[:] = [short.get(name, name) for name in node.input]
            node.output[:] = [short.get(name, name) for name in node.output]


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
