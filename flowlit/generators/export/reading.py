"""ONNX files of flowlit as generators again, which onnxruntime runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn

from ..._support.files import check_file, file_hash
from ..._support.schema import Count, Format
from ...errors import FlowlitError
from ...networks.checkpoints.facts import Described
from ...networks.checkpoints.spec import build
from ...types import Codec, Cond, Observer, Solution, Solver, VelocityField
from .facts import FORMAT, VERSION
from .onnx_file import KEY, LARGEST, session
from .program import INPUTS, OUTPUTS

TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}


class Port(Struct):
    """An input or an output: its shape, whose first entry is "batch", and its type."""

    shape: list[int | str]
    type: str


class ExportFacts(Struct):
    """Description of a file in its metadata, as far as generating needs it."""

    format: str
    version: int
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    codec: Described
    num_classes: Count = 0
    class_names: list[str] | None = None
    nfe: Count = 1


FACTS = Format(ExportFacts, "description of an export", "export it again", FORMAT, (1, VERSION))


class OnnxProgram(nn.Module):
    """A whole generator in an ONNX file, called as a network: (x0, t, cond) -> x1, (B, c, h, w); t is unused.

    Args:
        path: of a file that ``flowlit export`` wrote.

    Raises:
        FlowlitError: if it is torn, not of flowlit, or its inputs and outputs are not those that it states.
    """

    def __init__(self, path: Path):
        super().__init__()
        size = check_file(path, "ONNX file", "mend the path")
        if size > LARGEST:
            raise FlowlitError(f"{path} has {size:,} bytes; expected an ONNX file of 2 GB at most")
        self._session = session(path.read_bytes(), path)
        self.facts = facts_in(self._session, path)
        if "image" in self.facts["inputs"]:
            raise FlowlitError(
                f"{path} enlarges images, and is run by onnxruntime alone; expected its checkpoint, for "
                "flowlit upscale"
            )
        check_ports(self._session, self.facts, path)
        self.shape = tuple(self.facts["inputs"]["noise"]["shape"][1:])
        self.num_classes = self.facts.get("num_classes", 0)
        self.class_names = self.facts.get("class_names")
        self.evaluations = self.facts.get("nfe", 1)
        self.reads = frozenset({"label"} if self.num_classes else ())
        self.loaded = {"file": str(path), "sha256": file_hash(path), "weights": "only"}
        self.trained_on = self.facts.get("data")
        _try(self, path)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return x1 (B, c, h, w) of noise x (B, c, h, w), under cond["label"] (B,); t (B,) is unused."""
        inputs = {"noise": x.detach().float().cpu().numpy()}
        if self.num_classes:
            if "label" not in cond:
                raise FlowlitError("the exported network has classes, but cond has no 'label'; give labels")
            inputs["label"] = cond["label"].long().cpu().numpy()
        return torch.from_numpy(self._session.run(["x1"], inputs)[0]).to(x.device)


class WholeProgram(Solver):
    """The solver of what has its own inside: x1 is what the network returns."""

    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution:
        if observe is not None or reverse:
            raise FlowlitError("an exported generator goes from noise to images alone; load its checkpoint")
        x1 = velocity(x0, torch.zeros(len(x0)), cond)
        return Solution(x1, torch.full((len(x0),), getattr(velocity, "evaluations", 1)))


def facts_in(runtime: Any, path: Path) -> dict[str, Any]:
    """Return what an ONNX file says of itself.

    Raises:
        FlowlitError: if flowlit did not write it, or a newer one.
    """
    text = runtime.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise FlowlitError(
            f"{path} is an ONNX file that flowlit did not write (no metadata {KEY!r}); expected one of "
            "flowlit export, or run it by onnxruntime"
        )
    return FACTS.parse(text, path)


def check_ports(runtime: Any, facts: Mapping[str, Any], path: Path) -> None:
    """Refuse a graph whose inputs or outputs are not those that its description states.

    Raises:
        FlowlitError: naming the first.
    """
    for kind, ports, names in (
        ("input", runtime.get_inputs(), INPUTS[: 1 + bool(facts.get("num_classes"))]),
        ("output", runtime.get_outputs(), OUTPUTS),
    ):
        real = {port.name: (list(port.shape), TYPES.get(port.type, port.type)) for port in ports}
        stated = {name: (port["shape"], port["type"]) for name, port in facts[f"{kind}s"].items()}
        if set(stated) != set(names) or real != stated:
            raise FlowlitError(
                f"{path}: its {kind}s are {_shown(real)}, but it says {_shown(stated)}; export it again"
            )


def _shown(ports: Mapping[str, tuple[Any, str]]) -> str:
    return ", ".join(f"{name} {kind} ({', '.join(map(str, shape))})" for name, (shape, kind) in ports.items())


def _try(network: OnnxProgram, path: Path) -> None:
    """Refuse a graph that does not do what it states, by one image."""
    noise = np.zeros((1, *network.shape), np.float32)
    inputs = {"noise": noise, **({"label": np.zeros(1, np.int64)} if network.num_classes else {})}
    try:
        results = network._session.run(list(OUTPUTS), inputs)
    except Exception as error:  # of a graph that anyone has changed
        why = str(error).strip().partition("\n")[0][:160]
        raise FlowlitError(f"{path} fails on one image ({why}); export it again") from error
    for name, result in zip(OUTPUTS, results, strict=True):
        expected = tuple(network.facts["outputs"][name]["shape"][1:])
        if result.shape[1:] != expected:
            raise FlowlitError(
                f"{path}: {name} is {result.shape[1:]}, but it says {expected}; export it again"
            )


def parts_of_onnx(path: Path) -> dict[str, Any]:
    """Return the arguments of a ``Generator`` of an exported ONNX file.

    Raises:
        FlowlitError: as ``OnnxProgram``.
    """
    network = OnnxProgram(path)
    codec = build(network.facts["codec"], Codec)
    return {"network": network.eval(), "solver": WholeProgram(), "codec": codec}
