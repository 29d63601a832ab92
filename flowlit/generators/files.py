"""Generators and their files."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._support.diffusers_folder import is_pipeline
from .._support.places import to_share
from .._version import __version__
from ..data import Pixels
from ..data.provenance import trained_on
from ..errors import FlowlitError
from ..networks.checkpoints.contents import Weights
from ..networks.checkpoints.load import mismatch, take
from ..networks.checkpoints.locate import locate
from ..networks.checkpoints.newest import newest_good
from ..networks.checkpoints.pipeline import opened
from ..networks.checkpoints.spec import build, class_paths, spec
from ..networks.checkpoints.tensors import check_finite
from ..networks.checkpoints.write import write_state
from ..types import Codec, Solver, codec_of
from .hub import MODEL, NAME, as_hub_model, fetch
from .inputs import as_device, check_kind
from .prompts import text_facts

if TYPE_CHECKING:
    from .core import NoiseToImages


def file_in(place: Any) -> str:
    """Return the file of weights that a path means.

    Of a pipeline of diffusers it is the folder itself; of a run's folder, or its checkpoints, the good
    checkpoint of the highest step; of another folder its ``MODEL``, or its only safetensors; of a model of
    the hub its ``MODEL``, which is downloaded.

    Raises:
        FlowlitError: if there is none, or several.
    """
    model = as_hub_model(place)
    if model is not None:
        return fetch(model)
    if not isinstance(place, (str, os.PathLike)) or not os.path.isdir(place):
        return str(_located(place))
    folder = Path(place)
    if is_pipeline(folder):
        return str(folder)
    report = logging.getLogger("flowlit").warning
    files = [file for file in folder.glob("*.safetensors") if file.is_file()]
    chosen = [file for file in files if file.name == MODEL or len(files) == 1]
    try:
        latest = newest_good([folder, folder / "checkpoints"], resume=False, report=report)
    except FlowlitError as error:  # checkpoints of others, or torn ones
        if not chosen:
            raise
        report(f"{error}; taking {chosen[0]}")
        latest = None
    if latest is not None:
        return str(latest[0])
    return str(chosen[0] if chosen else locate(folder))


def _located(place: Any) -> Path:
    """Return the path of a file; where a name of the hub's form is a path for certain, errors say so."""
    try:
        return locate(place)
    except FlowlitError as error:
        if isinstance(place, str) and NAME.fullmatch(place) and not os.path.lexists(place):
            raise FlowlitError(f"{error} (hf://{place} would be a model of the hub)") from error
        raise


def parts_of(
    checkpoint: Any, weights: Weights, solver: Solver | None, network: nn.Module | None, device: Any
) -> dict[str, Any]:
    """Return the arguments of a ``Generator`` as a file describes them; see ``load``."""
    for value, name, kind in (
        (weights, "weights", str),
        (solver, "solver", Solver),
        (network, "network", nn.Module),
    ):
        if value is not None or name == "weights":
            check_kind(value, name, kind)
    place = None if device is None else as_device(device)
    source = file_in(checkpoint)
    if source.endswith((".onnx", ".pt2")):
        return _exported_parts(Path(source), weights, solver, network, place)
    contents, file = opened(source)
    facts = contents.facts
    net = take(contents, file, weights, network).requires_grad_(False)
    if solver is None:
        if facts.get("solver") is None:
            raise FlowlitError(
                f"checkpoint {file} names no solver; give one, e.g. solver=flowlit.solvers.Euler(1)"
            )
        solver = build(facts["solver"], Solver)
    described = codec_of(net)
    codec = build(described, Codec) if described else Pixels()
    known = {name: facts[name] for name in ("shape", "num_classes") if facts.get(name) is not None}
    return {"network": net.to(place), "solver": solver, "codec": codec, **known}


def _exported_parts(file: Path, weights: Weights, solver: Any, network: Any, device: Any) -> dict[str, Any]:
    if file.suffix == ".pt2":
        raise FlowlitError(
            f"{file} is a program of torch.export, whose file may hold code; run one that you trust by "
            "torch.export.load(file).module(), or load what it was exported from"
        )
    if solver is not None or network is not None or weights not in ("ema", "only"):
        raise FlowlitError(
            f"{file} has one solver and one set of weights; leave solver, network, weights out"
        )
    if device is not None and device.type != "cpu":
        raise FlowlitError(f"{file} is run by onnxruntime on the CPU; leave device out")
    from .export.reading import parts_of_onnx

    return parts_of_onnx(file)


def save(
    generator: NoiseToImages, path: str | os.PathLike[str], others: Mapping[str, Any] | None = None
) -> None:
    """Write a generator as safetensors, with other facts in its metadata; see ``Generator.save``."""
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix != ".safetensors":
        raise FlowlitError(f"path is {path!r:.200}; expected a file that ends in .safetensors")
    network = getattr(generator.network, "_orig_mod", generator.network)  # inside torch.compile's
    parts = {"solver": generator.solver, "codec": generator.codec, "network": network}
    specs = {name: _described(part, name) for name, part in parts.items()}
    state = network.state_dict()
    _check_rebuilt(specs["network"], state)
    check_finite(state, network, "the network")
    facts = {
        **specs,
        "weights": "only",
        "shape": generator.shape,
        "num_classes": generator.num_classes,
        "class_names": generator.class_names,
        "data": to_share(trained_on(network)),
        **text_facts(network),
        "version": __version__,
        **(others or {}),
    }
    write_state(state, specs["network"], Path(path), {key: facts[key] for key in facts if key != "network"})


def _described(part: Any, name: str) -> dict[str, Any]:
    description = spec(part)
    if description is None:
        kind = type(part).__name__
        example = '{"class_path": "my_file.' + kind + '", "init_args": {…}}'
        raise FlowlitError(
            f"{kind} does not say how it is built, so that its file would not stand alone; set "
            f"{name}.spec = {example}"
        )
    for path in class_paths(description):
        if path.startswith("__main__."):
            raise FlowlitError(
                f"the class {path} can be imported nowhere else; put it into a file of its own, and its "
                "spec likewise"
            )
    return description


def _check_rebuilt(description: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Refuse weights (any shape) that a network of this description would not take as they are.

    No random number of the program is drawn for it.
    """
    with torch.random.fork_rng(devices=[]):
        again = build(description, nn.Module).state_dict()
    difference = mismatch(again, state)
    if difference:
        raise FlowlitError(f"the network's spec builds another one than it is: {difference}; mend its spec")
    for name, value in state.items():
        if again[name].dtype != value.dtype:
            raise FlowlitError(
                f"{name} is {value.dtype}, but the network's class builds {again[name].dtype}, and the file "
                "would give other images; convert it first, as network.float()"
            )


def run_of(file: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to.

    >>> run_of(Path("runs/a/checkpoints/last.ckpt")).as_posix(), run_of(Path("weights/a.ckpt")).as_posix()
    ('runs/a', 'weights')
    """
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent
