"""ONNX graphs with integers: weights of 8 or 4 bits, activations of 8, by pairs of (De)QuantizeLinear."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._support.extras import needed
from ...errors import FlowlitError
from ..export.onnx_file import KEY, LARGEST
from .integers import FLOAT
from .layers import Layers, Ranges, rounds_output
from .writer import KINDS, Writer

OPSET = 21
"""Of the operators: the first with integers of 4 bits."""


def raised(content: bytes) -> bytes:
    """Return an ONNX file of an earlier opset as one of opset 21, by ONNX's own converter.

    The exporter's own files of opset 21 have norms of groups as one operator, which onnxruntime takes apart
    into some thirty at each call: one image took 1.5 times as long.
    """
    onnx = needed("onnx")
    model = needed("onnx.version_converter").convert_version(onnx.load_from_string(content), OPSET)
    return bytes(model.SerializeToString())


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
        named: bool = False,
    ) -> bytes:
        """Return the file with weights of these bits, which has passed ONNX's own checker.

        Args:
            bits: of layers by name; 32 leaves one as it is, and so does a missing one.
            ranges: of activations; empty leaves these as they are.
            facts: for its metadata.
            named: give all nodes that a layer becomes its name, for measuring times.

        Raises:
            FlowlitError: if it is too large for an ONNX file.
        """
        model = self.onnx.load_from_string(self.content)
        self._set_numbers(model)
        writer = Writer(self.onnx, model)
        nodes = []
        for number, node in enumerate(model.graph.node):
            name = self.places.get(number)
            width = FLOAT if name is None else bits.get(name, FLOAT)
            if name is None or width == FLOAT:
                if named and name is not None:
                    writer.name(node, name)
                nodes.append(node)
                continue
            given = ranges.get(name)
            ends = rounds_output(self.layers[name], width)
            nodes += writer.rounded(node, name, self.layers[name], width, given, ends)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        writer.finish(named)
        versions = {"opset": OPSET, "ir": model.ir_version}
        text = json.dumps({**facts, "onnx": versions}, sort_keys=True, separators=(",", ":"))
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
