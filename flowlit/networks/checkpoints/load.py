"""Take networks from checkpoints, ours and other projects', without running code that is stored in a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from ..._support.files import file_hash
from ...errors import FlowlitError
from ..wrappers.base import tells_decoder
from .contents import Contents, Weights
from .layouts import Layout
from .layouts.rules import State, Translated
from .pipeline import opened
from .spec import build, spec
from .tensors import check_finite, is_extra, kind

MOST = 20
"""Names of a kind that a report prints, at most."""


class LoadReport(NamedTuple):
    """Account of the tensors of a file, by their names there; in ``loaded`` and ``new``, by ours."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    unused: list[str] = []
    new: list[str] = []
    """Tensors of a second time, in a network that takes the weights of a velocity; which of them are zero."""
    retyped: list[str] = []
    """Tensors of integers where floating-point numbers belong, and the like."""

    def differences(self, most: int = 3) -> str:
        """Return what does not fit, the first names of each kind; '' if all does."""
        groups = {
            "missing there": self.missing,
            "unknown here": self.unexpected,
            "of another shape": self.mismatched,
            "of another type": self.retyped,
        }
        return "; ".join(
            f"{len(names)} {what}: {', '.join(names[:most])}{' …' if len(names) > most else ''}"
            for what, names in groups.items()
            if names
        )

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for what in ("missing", "unexpected", "mismatched", "retyped", "unused", "new"):
            names = getattr(self, what)
            lines += [f"{what}: {name}" for name in names[:MOST]]
            lines += [f"{what}: {len(names) - MOST} more"] * (len(names) > MOST)
        return "\n".join(lines)


def mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return how two state dicts differ, names and shapes (any shape); '' if they fit."""
    missing = [name for name in expected if name not in found]
    return compare(expected, Translated(dict(found), missing, [], [])).differences()


def compare(expected: Mapping[str, Tensor], found: Translated, unused: Sequence[str] = ()) -> LoadReport:
    """Compare the state dict of a network (tensors of any shape) with what a file has for it."""
    both = {name: value for name, value in found.state.items() if name in expected}
    tensors = {name: value for name, value in both.items() if not is_extra(name)}
    shapes = {name for name, value in tensors.items() if value.shape != expected[name].shape}
    types = {name for name, value in tensors.items() if kind(value) != kind(expected[name])}
    loaded = [name for name in both if name not in shapes | types]
    mismatched = [
        f"{name} is {tuple(value.shape)} there, {tuple(expected[name].shape)} here"
        for name, value in tensors.items()
        if name in shapes
    ]
    retyped = [
        f"{name} is {kind(value)} there, {kind(expected[name])} here"
        for name, value in tensors.items()
        if name in types
    ]
    unexpected = [*found.unexpected, *(name for name in found.state if name not in expected)]
    return LoadReport(
        loaded, found.missing, unexpected, [*mismatched, *found.torn], list(unused), retyped=retyped
    )


def pretrained(
    checkpoint: str, weights: Weights = "ema", network: nn.Module | None = None, strict: bool = True
) -> nn.Module:
    """Take the network of a checkpoint, with its weights, in eval mode.

    Use it to initialise a student or a guide; to resume a run use ``--ckpt_path``. It reads what ``flowlit
    fit`` and ``flowlit convert`` write, checkpoints of Rectified Flow and SlimFlow, and state dicts of EDM's
    DDPM++ and ADM, which come back as a velocity with ``.denoiser(y, sigma, cond)``, and folders of diffusers
    pipelines as of Stable Diffusion (``flowlit[text]``); see docs/checkpoints.md.
    The network has an attribute ``report``, a ``LoadReport`` of each tensor.

    Args:
        checkpoint: the file, or the folder of a pipeline.
        weights: "ema" for the average (which is best to sample from), "raw" for the trained weights, or the
            name of another average in the file; a plain state dict has one set, which is taken for "ema" and
            "raw".
        network: build this one instead of the one that the file describes or its weights show; needed where
            neither does.
        strict: every tensor must find its place; otherwise take those that do, at least one in ten, and warn.

    Raises:
        FlowlitError: if the file is missing, torn or unsafe, holds no average, or is of another architecture.
    """
    return take(*opened(checkpoint), weights, network, strict)


def take(
    contents: Contents,
    checkpoint: str,
    weights: Weights = "ema",
    network: nn.Module | None = None,
    strict: bool = True,
) -> nn.Module:
    """Take the network of a file that has been opened; see ``pretrained``."""
    state = contents.state(weights, checkpoint)
    layout = contents.layout.settled(network)
    layout.refuse(state)
    if network is None:
        with no_larger(contents.first):
            network = rebuilt(layout.infer(contents.first))
    velocity = layout.wrap(network, contents.first)
    velocity.report = fill(velocity, layout, contents, state, strict)  # type: ignore[assignment]
    average = contents.average(weights)
    source = {"file": str(checkpoint), "sha256": file_hash(checkpoint), "weights": weights}
    # for manifests and reports
    velocity.loaded = {**source, **({"ema": average} if average else {})}  # type: ignore[assignment]
    if codec := contents.facts.get("codec"):
        velocity.codec = codec
    if encoder := contents.facts.get("text_encoder"):
        velocity.text_encoder = encoder
    if names := contents.facts.get("class_names"):
        velocity.class_names = tuple(names)  # type: ignore[assignment]
    if data := contents.facts.get("data"):
        velocity.trained_on = data
    return velocity.eval()


def fill(velocity: nn.Module, layout: Layout, contents: Contents, state: State, strict: bool) -> LoadReport:
    """Copy weights of a file, by their names there and of any shape, into a network.

    Raises:
        FlowlitError: if they do not fit (unless ``strict`` is false), or are not finite.
    """
    translated, unused = layout.translate(velocity, state)
    report = without_second_time(compare(velocity.state_dict(), translated, unused), velocity, translated)
    if report.new:
        logging.getLogger("flowlit").warning(
            "checkpoint %s is of a velocity without a second time; these tensors of the network are not in "
            "it, and stay as they are: %s. Those of zeros make u(x, t, r) = v(x, t) until they are trained",
            layout.file,
            ", ".join(report.new),
        )
    elif tells_decoder(velocity) and second_time_of(contents.facts.get("network")) is False:
        logging.getLogger("flowlit").warning(
            "checkpoint %s is of a velocity without a second time; the decoder of the network is told r with "
            "the same weights: u(x, t, t) = v(x, t), and for other r it is no average until it is trained",
            layout.file,
        )
    if report.differences():
        why = f"{type(velocity).__name__}: {report.differences()}"
        if strict or 10 * len(report.loaded) < len(velocity.state_dict()):
            content = layout.content(contents.first)
            raise FlowlitError(f"checkpoint {layout.file} is of another architecture than {why}.{content}")
        logging.getLogger("flowlit").warning("checkpoint %s does not fit %s", layout.file, why)
    loaded = {key: translated.state[key] for key in report.loaded}
    check_finite(loaded, velocity, f"checkpoint {layout.file}")
    velocity.load_state_dict(loaded, strict=False)
    return report


def without_second_time(report: LoadReport, network: nn.Module, found: Translated) -> LoadReport:
    """Count the second time of a network as new, and not as missing, where a file has no tensor of it.

    With its last layer of zeros, as it is when fresh, the network is then exactly the velocity in the file.
    """
    second = {name: value for name, value in network.state_dict().items() if "second_time." in name}
    if any(name in found.state for name in second):
        return report
    new = [name if value.any() else f"{name} (zeros)" for name, value in second.items()]
    return report._replace(missing=[name for name in report.missing if name not in second], new=new)


def second_time_of(description: Any) -> Any:
    """Return how a described network, perhaps inside a wrapper, reads a second time; None if unknown."""
    arguments = (description or {}).get("init_args") or {}
    if "network" in arguments:
        return second_time_of(arguments["network"])
    return arguments.get("second_time", False) if arguments else None


def rebuilt(description: dict[str, Any]) -> nn.Module:
    """Build a network that has a spec, so that the next checkpoint stands alone."""
    network = build(description, nn.Module)
    if spec(network) is None:
        network.spec = description
    return network


@contextmanager
def no_larger(state: State) -> Iterator[None]:
    """Refuse to build a network that is far larger than its weights in a file, tensors of any shape.

    Layers register a parameter before they fill it, and untouched memory costs nothing.

    Raises:
        ValueError: from the constructor.
    """
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    numbers = sum(value.numel() for value in tensors)
    remaining = [10 * len(tensors) + 1_000, 10 * numbers + 1_000_000]

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        if parameter is None or is_lazy(parameter):
            return
        remaining[0] -= 1
        remaining[1] -= parameter.numel()
        if min(remaining) < 0:
            raise ValueError(
                f"it is far larger than its weights, {numbers:,} numbers in {len(tensors)} tensors"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def describe(contents: Contents, checkpoint: str) -> dict[str, Any]:
    """Return the spec of the network of a file: as the file says, or as its weights show.

    Raises:
        FlowlitError: if neither does.
    """
    return contents.layout.infer(contents.first)
