"""``flowlit convert``: weights of other projects become ours, and ours theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .._version import __version__
from ..errors import FlowlitError
from ..ranges import PositiveFloat

Layout = Literal["safetensors", "slimflow"]

PASSED_ON = (
    "ema",
    "ema_updates",
    "solver",
    "codec",
    "text_encoder",
    "class_names",
    "data",
    "shape",
    "num_classes",
    "step",
)
"""Facts of a file that its conversion has, too."""


def convert(
    file: Path,
    *,
    into: Path,
    weights: str = "ema",
    layout: Layout = "safetensors",
    network: Path | None = None,
    loose: bool = False,
    clock: PositiveFloat | None = None,
) -> list[str]:
    """Turn weights of flowlit, Rectified Flow, SlimFlow or EDM into self-describing safetensors, or back.

    Args:
        file: a checkpoint: .ckpt, .pth, .pt or .safetensors; or a YAML whose network has parts of several
            (flowlit.networks.Router), which become one file, with the first of its solvers
        into: the file to write
        weights: ema, raw, or the name of another average
        layout: what to write
        network: a YAML whose model.init_args.network the weights are of, if the file does not say
        loose: take what fits, and leave the remainder as it was initialised
        clock: fit the time embedding anew with this time_scale; 1 before flow maps are trained, whose
            derivatives by time are ripple at 999

    Raises:
        FlowlitError: as ``pretrained``; if the new file exists, is being made, or does not give the same
            network back.
    """
    from .._support.locks import locked_target

    check_target(into, layout)
    if clock is not None and (layout != "safetensors" or file.suffix in (".yaml", ".yml")):
        raise FlowlitError("--clock: expected one network's checkpoint, and safetensors to write")
    with locked_target(into):
        if file.suffix in (".yaml", ".yml"):
            return _assemble(file, into)
        return _convert(file, into, weights, layout, network, not loose, clock)


def _convert(
    file: Path,
    into: Path,
    weights: str,
    layout: Layout,
    network: Path | None,
    strict: bool,
    clock: float | None = None,
) -> list[str]:
    from .._support.files import file_hash
    from ..networks.checkpoints.read import read_contents
    from ..networks.checkpoints.spec import summarise
    from ..networks.clock import reembedded

    contents = read_contents(file)
    contents.check(weights, file)
    average = "ema" if weights == "raw" else weights
    networks = {
        kind: _take(contents, file, kind if contents.holds(kind) else weights, network, strict)
        for kind in ([weights] if layout == "safetensors" else ["raw", average])
    }
    report = str(networks[weights].report)
    clocked = []
    if clock is not None:
        networks[weights], difference = reembedded(networks[weights], clock)
        clocked = [f"time_scale {clock:g}: embeddings differ by {difference:.2g} (rms)"]
    chosen = networks[weights]
    source = {"file": file.name, "sha256": chosen.loaded["sha256"]}
    facts = {**_known(contents, average), "source": source, "version": __version__}
    notes = _write(networks, weights, average, into, facts)
    both = contents.holds("raw") and contents.holds(average) and "only" not in contents.states
    if layout == "slimflow" and not both:
        notes = [f"note: {file} holds one set of weights, which is written twice", *notes]
    kind = "velocity" if contents.velocity else "denoiser"
    return [
        f"{file}: a {kind}, {summarise(chosen.spec)}",
        report,
        *clocked,
        *notes,
        f"{into}: {into.stat().st_size / 1e6:.1f} MB, SHA-256 {file_hash(into)}",
    ]


def _assemble(file: Path, into: Path) -> list[str]:
    """Write the network of a YAML, whose weights are those of the checkpoints that it names."""
    from .._support.files import file_hash
    from ..generators import Generator
    from ..networks.checkpoints.spec import build, spec, summarise
    from ..types import Codec, Solver, codec_of, loaded_of
    from ._yaml import build_network, read_yaml

    network = build_network(file)
    if all(loaded_of(part) is None for part in network.modules()):
        raise FlowlitError(
            f"{file}: its network has fresh weights; expected parts that are read from checkpoints, by "
            "class_path: flowlit.networks.pretrained"
        )
    solvers = read_yaml(file)["model"]["init_args"].get("solvers")
    if not isinstance(solvers, dict) or not solvers:
        raise FlowlitError(
            f"{file}: model.init_args.solvers is {solvers}; expected a solver to generate with, e.g. euler1: "
            "{class_path: flowlit.solvers.Euler}"
        )
    codec = codec_of(network) or {"class_path": "flowlit.data.Pixels"}
    solver = build(next(iter(solvers.values())), Solver)
    Generator(network, solver, build(codec, Codec)).save(into)
    return [
        f"{file}: {summarise(spec(network))}",
        f"{into}: {into.stat().st_size / 1e6:.1f} MB, SHA-256 {file_hash(into)}",
    ]


def _write(
    networks: dict[str, Any], weights: str, average: str, into: Path, facts: dict[str, Any]
) -> list[str]:
    """Write one set of weights, or both in SlimFlow's layout; return notes on what that lacks."""
    from ..networks.checkpoints.write import write_safetensors, write_slimflow

    if into.suffix == ".safetensors":
        write_safetensors(networks[weights], into, {**facts, "weights": weights})
        _read_back(networks, into)
        return []
    both = {"raw": networks["raw"], "ema": networks[average]}
    write_slimflow(**both, into=into, facts=facts)
    written = _read_back(both, into)
    return [f"note: the optimizer in {into} is a fresh Adam", *_lost(networks[weights], written, into)]


def check_target(into: Path, layout: str) -> None:
    """Refuse a file that exists, or whose name does not end as a layout's do."""
    if into.exists():
        raise FlowlitError(f"{into} exists; remove it, or choose another --into")
    if (into.suffix == ".safetensors") != (layout == "safetensors"):
        ending = ".safetensors" if layout == "safetensors" else ".pth"
        raise FlowlitError(f"--into {into}: a file of layout {layout} ends in {ending}")


def _take(contents: Any, file: Path, weights: Any, network: Path | None, strict: bool) -> Any:
    from ..networks.checkpoints.load import take
    from ._yaml import build_network

    return take(contents, str(file), weights, None if network is None else build_network(network), strict)


def _known(contents: Any, average: str) -> dict[str, Any]:
    """Return the facts to pass on: how the network was trained to be sampled from, and how long."""
    profile = contents.average(average)
    updates = profile.get("updates", contents.facts.get("ema_updates"))
    facts = {**contents.facts, "ema": profile, "ema_updates": updates}
    return {key: facts[key] for key in PASSED_ON if facts.get(key)}


def _lost(network: Any, written: Any, into: Path) -> list[str]:
    """Return a note if SlimFlow's layout does not describe a network well enough to build it again."""
    from ..networks.checkpoints.load import describe, rebuilt
    from ..networks.checkpoints.spec import structure

    try:
        described = rebuilt(describe(written, str(into))).spec
    except FlowlitError:
        described = None
    if structure(described) == structure(network.spec):
        return []
    return [
        "note: the layout does not tell the resolution of this network; give network (--network YAML) to "
        f"read {into}"
    ]


def _read_back(networks: dict[str, Any], into: Path) -> Any:
    """Read every set of weights of a new file into a network of the same build; return the file's contents.

    Raises:
        FlowlitError: if one is not what was written. The file is then removed.
    """
    from ..networks.checkpoints.fingerprint import fingerprint
    from ..networks.checkpoints.load import rebuilt, take
    from ..networks.checkpoints.read import read_contents

    try:
        written = read_contents(into)
        for kind, network in networks.items():
            # a file in SlimFlow's layout need not have the resolution
            same = None if into.suffix == ".safetensors" else rebuilt(network.spec)
            again = take(written, str(into), kind, same)
            if fingerprint(again) != fingerprint(network):
                raise FlowlitError(
                    f"{into} would read back as another network, and was not kept; report this, please"
                )
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    return written
