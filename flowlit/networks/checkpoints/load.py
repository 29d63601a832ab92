"""Take networks from checkpoints, flowlit's own and other people's, without running code that is stored in a
file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..._support.files import file_hash
from ...errors import FlowlitError
from ..adm import ADM
from ..unet import UNet
from ..wrappers.preconditioning import EDM
from .layouts import edm, slimflow
from .layouts.base import Rule, State, Translated, to_ours
from .read import Contents, Weights, read_contents
from .spec import build, spec, summarise

MOST = 20
"""Names of a kind that a report prints."""


class LoadReport(NamedTuple):
    """What became of the tensors of a file; names of the file, but for ``loaded``."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    unused: list[str] = []

    def differences(self, most: int = 3) -> str:
        """Tell what does not fit, the first names of each kind; '' if all does."""
        groups = {
            "missing there": self.missing,
            "unknown here": self.unexpected,
            "of another shape": self.mismatched,
        }
        return "; ".join(
            f"{len(names)} {what}: {', '.join(names[:most])}{' …' if len(names) > most else ''}"
            for what, names in groups.items()
            if names
        )

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for what in ("missing", "unexpected", "mismatched", "unused"):
            names = getattr(self, what)
            lines += [f"{what}: {name}" for name in names[:MOST]]
            lines += [f"{what}: {len(names) - MOST} more"] * (len(names) > MOST)
        return "\n".join(lines)


def mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Tell how two state dicts differ, key by key and shape by shape; '' if they fit."""
    return compare(
        expected, Translated(dict(found), [k for k in expected if k not in found], [], [])
    ).differences()


def compare(expected: Mapping[str, Tensor], found: Translated, unused: Sequence[str] = ()) -> LoadReport:
    """Compare what a network has with what was found for it."""
    wrong = [
        f"{key} is {tuple(value.shape)} there, {tuple(expected[key].shape)} here"
        for key, value in found.state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    loaded = [
        key for key, value in found.state.items() if key in expected and value.shape == expected[key].shape
    ]
    strange = [key for key in found.state if key not in expected]
    return LoadReport(
        loaded, found.missing, [*found.unexpected, *strange], [*wrong, *found.torn], list(unused)
    )


def pretrained(
    checkpoint: str, weights: Weights = "ema", network: nn.Module | None = None, strict: bool = True
) -> nn.Module:
    """Take the network of a checkpoint, with its weights, in eval mode. Initialises; to resume a run use
    ``--ckpt_path``.

    Reads what ``flowlit fit`` and ``flowlit convert`` write, checkpoints of Rectified Flow and SlimFlow, and
    state dicts of EDM's DDPM++ and ADM, which come back as a velocity with ``.denoiser(y, sigma, cond)``; see
    docs/checkpoints.md. What became of each tensor is told by ``.report``, a ``LoadReport``.

    Args:
        checkpoint: the file.
        weights: "ema" for the average (what one samples from), "raw" for the trained weights, or the name of
            another average that the run kept; a plain state dict holds one set, which is taken for "ema" and
            "raw".
        network: build this one instead of the one that the file describes or its weights tell; needed where
            neither can.
        strict: every tensor must find its place; otherwise take those that do, at least one in ten, and warn.

    Raises:
        FlowlitError: if the file is missing, torn or unsafe, holds no average, or is of another architecture.
    """
    return take(read_contents(checkpoint), checkpoint, weights, network, strict)


def take(
    contents: Contents,
    checkpoint: str,
    weights: Weights = "ema",
    network: nn.Module | None = None,
    strict: bool = True,
) -> nn.Module:
    """``pretrained``, of a file that has been opened."""
    if contents.presumed and getattr(getattr(network, "time", None), "scale", 1) == 999:
        contents = contents._replace(velocity=True)  # SlimFlow's ADM without its trainer's dict
    state = contents.state(weights, checkpoint)
    edm.check_kind(state, f"checkpoint {checkpoint}")
    kind: Any = UNet if contents.layout == "slimflow" else ADM if edm.is_adm(state) else UNet
    velocity = as_velocity(network or rebuilt(describe(contents, checkpoint)), contents, kind, checkpoint)
    velocity.report = fill(velocity, contents, state, checkpoint, strict)  # type: ignore[assignment]
    # for manifests and reports
    told = {"file": str(checkpoint), "sha256": file_hash(checkpoint), "weights": weights}
    average = contents.average(weights)
    velocity.loaded = {**told, **({"ema": average} if average else {})}  # type: ignore[assignment]
    return velocity.eval()


def fill(velocity: nn.Module, contents: Contents, state: State, checkpoint: str, strict: bool) -> LoadReport:
    """Give a network the weights of a file.

    Raises:
        FlowlitError: if they do not fit (unless ``strict`` is false), or are not finite.
    """
    found, unused = translate(velocity, contents, state)
    report = compare(velocity.state_dict(), found, unused)
    if report.differences():
        why = f"{type(velocity).__name__}: {report.differences()}"
        if strict or 10 * len(report.loaded) < len(velocity.state_dict()):
            raise FlowlitError(
                f"checkpoint {checkpoint} is of another architecture than {why}.{_held(contents, checkpoint)}"
            )
        logging.getLogger("flowlit").warning("checkpoint %s does not fit %s", checkpoint, why)
    if wild := [key for key in report.loaded if not found.state[key].isfinite().all()]:
        raise FlowlitError(
            f"checkpoint {checkpoint}: {wild[0]} is not finite (and {len(wild) - 1} more); use an older "
            "checkpoint"
        )
    velocity.load_state_dict({key: found.state[key] for key in report.loaded}, strict=False)
    return report


def rebuilt(description: dict[str, Any]) -> nn.Module:
    """Build a network that can tell how it was built, so that the next checkpoint stands alone."""
    network = build(description, nn.Module)
    if spec(network) is None:
        network.spec = description
    return network


def describe(contents: Contents, checkpoint: str) -> dict[str, Any]:
    """How the network of a file is built: as the file says, or as its weights tell.

    Raises:
        FlowlitError: if neither does.
    """
    state = next(iter(contents.states.values()))
    if contents.layout == "slimflow":
        return slimflow.infer(state, f"checkpoint {checkpoint}")
    if contents.layout == "edm":
        return edm.infer(state, contents.velocity, f"checkpoint {checkpoint}")
    if contents.facts.get("network") is None:
        raise FlowlitError(
            f"checkpoint {checkpoint} does not tell how its network is built; give it as network"
        )
    return contents.facts["network"]


def as_velocity(network: Any, contents: Contents, kind: Any, checkpoint: str) -> nn.Module:
    """Surround the network of a denoiser by ``EDM``, unless it is already.

    Raises:
        FlowlitError: if the network is told times in another way than the one in the file.
    """
    if contents.layout == "flowlit":
        return network
    inside: Any = network.network if isinstance(network, EDM) else network
    if not isinstance(inside, kind):
        raise FlowlitError(
            f"checkpoint {checkpoint} cannot be read into "
            f"{type(inside).__name__}.{_held(contents, checkpoint)}"
        )
    if contents.layout == "slimflow" and inside.label is not None:
        raise FlowlitError(
            f"checkpoint {checkpoint} is of an unconditional network, the one given has classes; "
            "num_classes: 0"
        )
    if contents.velocity and isinstance(network, EDM):
        raise FlowlitError(
            f"checkpoint {checkpoint} holds a network that predicts a velocity; give it without EDM around it"
        )
    if inside.time.scale != (scale := 999 if contents.velocity else 1):
        raise FlowlitError(
            f"checkpoint {checkpoint} needs a network with time_scale {scale}, found {inside.time.scale:g}"
        )
    if (
        contents.layout == "edm"
        and isinstance(inside, UNet)
        and inside.label is not None
        and not inside.early_label
    ):
        raise FlowlitError(f"checkpoint {checkpoint} needs a UNet with early_label: true")
    return network if contents.velocity or isinstance(network, EDM) else EDM(network)


def translate(network: nn.Module, contents: Contents, state: State) -> tuple[Translated, list[str]]:
    """Name the tensors of a file as the network does; also return those that mean nothing to it."""
    if contents.layout == "flowlit":
        return Translated(state, [key for key in network.state_dict() if key not in state], [], []), []
    inside: Any = network.network if isinstance(network, EDM) else network
    found = to_ours(state, rules_of(inside, contents), edm.is_unused)
    prefix = "network." if isinstance(network, EDM) else ""
    named = found._replace(state={prefix + key: value for key, value in found.state.items()})
    return named, [name for name in state if edm.is_unused(name)]


def rules_of(network: Any, contents: Contents) -> list[Rule]:
    """How the tensors of a file are named in a network."""
    return slimflow.rules(network) if contents.layout == "slimflow" else edm.rules(network)


def _held(contents: Contents, checkpoint: str) -> str:
    """What a file holds, and which fragment that is, if either can be told."""
    try:
        return f" It holds {summarise(describe(contents, checkpoint))}: give that as network, or none (null)"
    except FlowlitError:
        return ""
