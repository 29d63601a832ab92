"""``flowlit convert``: weights of other projects become ours, and ours theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .._version import __version__
from ..errors import FlowlitError

Layout = Literal["safetensors", "slimflow"]


def convert(
    file: Path,
    *,
    into: Path,
    weights: str = "ema",
    layout: Layout = "safetensors",
    network: Path | None = None,
    loose: bool = False,
) -> list[str]:
    """Turn weights of flowlit, Rectified Flow, SlimFlow or EDM into self-describing safetensors, or back.

    The new file is read again and compared.

    Args:
        file: a checkpoint: .ckpt, .pth, .pt or .safetensors
        into: the file to write
        weights: ema, raw, or the name of another average
        layout: what to write
        network: a YAML whose model.init_args.network the weights are of, if the file does not say
        loose: take what fits, and leave the remainder as it was initialised

    Raises:
        FlowlitError: as ``pretrained``; if the new file exists, or does not give the same network back.
    """
    from .._support.files import file_hash
    from ..networks.checkpoints.read import read_contents
    from ..networks.checkpoints.spec import summarise
    from ..networks.checkpoints.write import write_safetensors, write_slimflow

    _check_target(into, layout)
    contents = read_contents(file)
    contents.check(weights, file)
    average = "ema" if weights == "raw" else weights
    both = contents.holds("raw") and contents.holds(average) and "only" not in contents.states
    kinds = [weights] if layout == "safetensors" else ["raw", average]
    taken = {
        kind: _take(contents, file, kind if contents.holds(kind) else weights, network, not loose)
        for kind in kinds
    }  # type: ignore
    chosen = taken[weights]
    source = {"file": file.name, "sha256": chosen.loaded["sha256"]}
    facts = {**_known(contents, average), "source": source, "version": __version__}
    if layout == "safetensors":
        write_safetensors(chosen, into, {**facts, "weights": weights})
    else:
        taken = {"raw": taken["raw"], "ema": taken[average]}  # the names that its layout knows
        write_slimflow(**taken, into=into, facts=facts)
    try:
        written = read_contents(into)
        _compare(taken, written, into)
    except BaseException:
        into.unlink(missing_ok=True)  # what was not read back must not stay
        raise
    return [
        f"{file}: a {'velocity' if contents.velocity else 'denoiser'}, {summarise(chosen.spec)}",
        str(chosen.report),
        *(
            [f"note: {file} holds one set of weights, which is written twice"]
            if layout == "slimflow" and not both
            else []
        ),
        *([f"note: the optimizer in {into} is a fresh Adam"] if layout == "slimflow" else []),
        *(_lost(chosen, written, into) if layout == "slimflow" else []),
        f"{into}: {into.stat().st_size / 1e6:.1f} MB, SHA-256 {file_hash(into)}",
    ]


def _check_target(into: Path, layout: str) -> None:
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
    """What is passed on: how it was trained to be sampled from, and how long."""
    told = contents.average(average)
    facts = {
        **contents.facts,
        "ema": told,
        "ema_updates": told.get("updates", contents.facts.get("ema_updates")),
    }
    return {key: facts[key] for key in ("ema", "ema_updates", "solver", "codec", "step") if facts.get(key)}


def _lost(network: Any, written: Any, into: Path) -> list[str]:
    """Say what the layout of SlimFlow does not tell those who read it."""
    from ..networks.checkpoints.load import describe, rebuilt
    from ..networks.checkpoints.spec import structure

    try:
        told = rebuilt(describe(written, str(into))).spec
    except FlowlitError:
        told = None
    if structure(told) == structure(network.spec):
        return []
    return [
        "note: the layout does not tell the resolution of this network; give network (--network YAML) to "
        f"read {into}"
    ]


def _compare(taken: dict[str, Any], written: Any, into: Path) -> None:
    """Take what was written, every set of it, into networks of the same build: a file need not tell its
    resolution.
    """
    from ..networks.checkpoints.fingerprint import fingerprint
    from ..networks.checkpoints.load import rebuilt, take

    def again(kind: Any) -> Any:
        return take(
            written, str(into), kind, None if into.suffix == ".safetensors" else rebuilt(taken[kind].spec)
        )

    if any(fingerprint(again(kind)) != fingerprint(network) for kind, network in taken.items()):
        raise FlowlitError(
            f"{into} would read back as another network, and was not kept; report this, please"
        )
