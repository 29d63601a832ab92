"""A generator as one program of tensors: noise and labels go in, images come out."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.velocities import OWN_CONDITIONS
from ...data import Patches, Pixels
from ...errors import FlowlitError
from ...networks import Router
from ...solvers import RK45, SDE, AdaptiveDPMSolver, ReNoise
from ...solvers.base import unchecked
from ...types import reads_of
from ..core import NoiseToImages
from ..sampling import noise_shape
from .enlarging import Enlarging, check_enlarging, enlarges, takes_t, widened

INPUTS = ("noise", "label")
OUTPUTS = ("images", "x1")

MOST = 2**16
"""Images of a batch at most, as the graph states it."""


class Program(nn.Module):
    """The whole way from noise to images, all steps of the solver and the codec included."""

    def __init__(self, generator: NoiseToImages):
        super().__init__()
        self.network = deepcopy(generator.network).float().eval().requires_grad_(False)
        self.solver = generator.solver
        self.codec = generator.codec

    def forward(self, noise: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8, and x1 (B, c, h, w) float32 before they are rounded.

        Args:
            noise: (B, c, h, w) float32, N(0, 1).
            label: (B,) int64.
        """
        with unchecked():
            x1 = self.solver(self.network, noise, {} if label is None else {"label": label}).x1
        return self.codec.decode(x1), x1


def is_labelled(generator: NoiseToImages) -> bool:
    """Return whether a program of a generator takes labels."""
    return bool(generator.num_classes)


def names_of(generator: NoiseToImages) -> tuple[str, ...]:
    """Return the names of the inputs of a generator's program."""
    if enlarges(generator):
        return ("noise", "image", "t") if takes_t(generator) else ("noise", "image")
    return INPUTS[: 1 + is_labelled(generator)]


def program_of(generator: NoiseToImages) -> nn.Module:
    """Return a generator as a program of its inputs, in the order of ``names_of``."""
    return (widened(Enlarging(generator)) if enlarges(generator) else Program(generator)).eval()


def check_exportable(generator: NoiseToImages, images: bool = False) -> None:
    """Refuse generators that no graph of fixed steps can hold, before any work.

    Args:
        generator: as it was loaded.
        images: the form takes images to enlarge, too.

    Raises:
        FlowlitError: naming the part.
    """
    noise_shape(generator)
    solver = generator.solver
    fixed = "expected one of fixed steps: --solver Heun --nfe 10"
    name = type(solver).__name__
    if isinstance(solver, (RK45, AdaptiveDPMSolver)):
        raise FlowlitError(f"{name} chooses its steps for each image, which a graph cannot; {fixed}")
    again = (isinstance(solver, ReNoise) and solver.fresh) or getattr(solver, "renoise", False)
    if isinstance(solver, SDE) or again:
        raise FlowlitError(f"{name} draws noise on its way, which a graph cannot; {fixed}")
    if type(generator.codec) not in (Pixels, Patches):
        raise FlowlitError(
            f"the codec is {generator.codec!r}, whose decoding is not exported; expected Pixels or Patches"
        )
    network = generator.network
    if any(isinstance(module, Router) for module in network.modules()):
        raise FlowlitError(
            "Router chooses a student for each label, which a graph cannot; export its students one by one"
        )
    if images and enlarges(generator):
        return check_enlarging(generator)
    others = sorted((reads_of(network) or frozenset()) - OWN_CONDITIONS)
    if others:
        raise FlowlitError(
            f"the network reads {', '.join(others)}, and this form takes noise and labels alone; networks of "
            "super-resolution go --to onnx, web or safetensors, or use flowlit upscale"
        )


def example(generator: NoiseToImages, rows: int = 2) -> tuple[Tensor, ...]:
    """Return inputs of a program: noise (rows, c, h, w), label and t (rows,), and images as noise."""
    values = {"label": torch.zeros(rows, dtype=torch.int64), "t": torch.zeros(rows)}
    shape = noise_shape(generator)  # one tensor each: torch.export would take the same one for one input
    names = names_of(generator)
    return tuple(values[name] if name in values else torch.zeros(rows, *shape) for name in names)


def sizes_of_inputs(generator: NoiseToImages) -> tuple[dict[int, Any], ...]:
    """Return, for each input, that its first size is a batch of any number of images."""
    batch = torch.export.Dim("batch", min=1, max=MOST)
    return tuple({0: batch} for _ in example(generator))


def traced(generator: NoiseToImages) -> Any:
    """Return a generator as ``torch.export.ExportedProgram``, for batches of any size.

    Raises:
        FlowlitError: if it cannot be followed, naming the layer.
    """
    program = program_of(generator)
    inputs = example(generator)
    shapes = sizes_of_inputs(generator)
    with torch.no_grad(), quiet(), followed(program) as place:
        try:
            return torch.export.export(program, inputs, dynamic_shapes=shapes)
        except Exception as error:  # of a network of anyone's
            raise untraceable(error, place) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters print of their progress, of this machine and of each other."""
    logs = [logging.getLogger(f"torch.utils.{name}") for name in ("cpp_extension", "_pytree")]
    for log in logs:
        log.addFilter(_is_error)  # PyTorch sets their levels anew on its way
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for log in logs:
            log.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextmanager
def followed(program: nn.Module) -> Iterator[list[str]]:
    """Yield a list of the names of the layers that are being computed, the innermost last."""
    place: list[str] = []
    hooks = []
    for name, module in program.named_modules():
        label = f"{name} ({type(module).__name__})"
        hooks += [
            module.register_forward_pre_hook(lambda *_, label=label: place.append(label)),
            module.register_forward_hook(lambda *_: place.pop() and None),
        ]
    try:
        yield place
    finally:
        for hook in hooks:
            hook.remove()


def untraceable(error: Exception, place: list[str]) -> FlowlitError:
    """Return an error that names the layer that torch.export could not follow."""
    why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    where = f"the layer {place[-1]}" if len(place) > 1 else "the network"
    return FlowlitError(
        f"{where} cannot be followed by torch.export ({why}); write it without decisions by the values of "
        "tensors, or export --to safetensors"
    )
