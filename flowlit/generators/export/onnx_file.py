"""ONNX files: written by PyTorch's exporter, checked, and run by onnxruntime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._support.extras import needed
from ...errors import FlowlitError
from ..core import NoiseToImages
from .program import INPUTS, OUTPUTS, names_of, quiet, traced

OPSET = 18
"""Of the operators: what onnxruntime and its web build have had since 2023."""

LARGEST = 2**31 - 1
"""Bytes of a file at most, as its format has it."""

KEY = "flowlit"
"""Of the metadata, which is JSON."""


def onnx_bytes(generator: NoiseToImages, facts: dict[str, Any]) -> tuple[bytes, dict[str, int]]:
    """Return a generator as an ONNX file, which has passed ONNX's own checker, and the versions that it has.

    Args:
        generator: whose steps and codec are inside.
        facts: for its metadata.

    Raises:
        FlowlitError: for a missing package, an operator that ONNX lacks, and a network that is too large.
    """
    onnx = needed("onnx")
    needed("onnxscript")
    program = traced(generator)
    try:
        with quiet():
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=list(names_of(generator)),
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                external_data=False,
            )
        assert written is not None
        _strip(written.model)
        model = written.model_proto
    except Exception as error:  # of operators of anyone's
        raise _unknown_operator(error, program) from error
    _name_batches(model)
    versions = {"opset": OPSET, "ir": model.ir_version}
    model.doc_string = "noise to images, written by flowlit"
    onnx.helper.set_model_props(model, {KEY: json.dumps({**facts, "onnx": versions}, sort_keys=True)})
    if model.ByteSize() > LARGEST:
        raise FlowlitError(f"the graph has {model.ByteSize():,} bytes, and an ONNX file 2 GB; use --to torch")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(), versions


def _strip(model: Any) -> None:
    """Remove traces of the source from nodes, which can be as large as the weights."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def _name_batches(model: Any) -> None:
    """Call the first size of inputs and outputs "batch", and drop what else the exporter notes."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]


def _unknown_operator(error: Exception, program: Any) -> FlowlitError:
    """Return an error that names an operator which ONNX lacks, and the layer that computes it."""
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    missing = re.search(r"op='(\w+)\.(\w+)'", text)
    if missing is None:
        return FlowlitError(f"the graph cannot be written as ONNX ({text[:200]}); export --to torch")
    operator = f"{missing[1]}.{missing[2]}"
    nodes = [node for node in program.graph.nodes if missing[2] in str(node.target)]
    stacks = [list((node.meta.get("nn_module_stack") or {}).values()) for node in nodes]
    layer = next((f" of the layer {stack[-1][0]}" for stack in stacks if stack and stack[-1][0]), "")
    return FlowlitError(
        f"ONNX has no operator for {operator}{layer}; replace it in the network, or export --to torch"
    )


def inputs_of(noise: Tensor, label: Tensor | None) -> dict[str, Any]:
    """Return noise (B, c, h, w) and labels (B,) as arrays by name, as a file takes them."""
    values = zip(INPUTS, (noise, label), strict=True)
    return {name: value.numpy() for name, value in values if value is not None}


def session(content: bytes, path: Path, profile: Path | None = None) -> Any:
    """Return an onnxruntime session of a file's bytes on the CPU. Bytes alone cannot name other files.

    Args:
        content: of the file.
        path: for messages.
        profile: beginning of the name of the file that has the times of nodes in the end.

    Raises:
        FlowlitError: if they are torn, or onnxruntime is not installed.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # its errors are raised
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever a parser makes of bytes that are no model
        why = str(error).strip().partition("\n")[0][:160]
        raise FlowlitError(
            f"{path} cannot be run by onnxruntime ({why}); export or fetch it again"
        ) from error
