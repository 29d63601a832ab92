"""Generators of super-resolution as programs: noise, an enlarged image and t go in, a sharp one comes out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...data import Pixels
from ...data.degradations import Degradation
from ...errors import FlowlitError
from ...networks.checkpoints.spec import spec
from ...solvers import OneStep
from ...solvers.base import unchecked
from ...types import reads_of
from ..core import NoiseToImages
from ..upscaling import Upscaler, upscaler_of

LINE = 8
"""Pixels of the line that says how a degradation enlarges."""


def enlarges(generator: NoiseToImages) -> bool:
    """Return whether a generator's network reads an image."""
    return "image" in (reads_of(generator.network) or ())


def takes_t(generator: NoiseToImages) -> bool:
    """Return whether a program has an input t, from fidelity (0) to realism (1)."""
    return enlarges(generator) and isinstance(generator.solver, OneStep)


def upscaler(generator: NoiseToImages) -> Upscaler:
    """Return a generator with what its images were degraded by in training.

    Raises:
        FlowlitError: if it is not of super-resolution.
    """
    return upscaler_of(generator, None, None)


def check_enlarging(generator: NoiseToImages) -> None:
    """Refuse networks that read more than noise, an image and t, and images that are no pixels.

    Raises:
        FlowlitError: naming what they read.
    """
    upscaler(generator)
    others = sorted((reads_of(generator.network) or frozenset()) - {"image"})
    if others or type(generator.codec) is not Pixels:
        what = f"reads {', '.join(others)}, too" if others else f"has the codec {generator.codec!r}"
        raise FlowlitError(
            f"the network {what}; exports of super-resolution are for networks in pixels that read an image "
            "alone; use flowlit upscale, or --to safetensors"
        )


class Enlarging(nn.Module):
    """The way from noise and an image that was brought to size to a sharp one."""

    def __init__(self, generator: NoiseToImages):
        super().__init__()
        self.network = deepcopy(generator.network).float().eval().requires_grad_(False)
        self.solver = generator.solver
        self.codec = generator.codec
        self.start = upscaler(generator).start

    def forward(self, noise: Tensor, image: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) uint8, and x1 (B, C, H, W) float32 before they are rounded.

        Args:
            noise: (B, C, H, W) float32, N(0, 1).
            image: (B, C, H, W) float32 in [-1, 1], brought to size.
            t: (B,) float32 of ``OneStep``, each image its own; None for other solvers.
        """
        x0 = self.start(image, noise)
        cond = {"image": image}
        with unchecked():
            x1 = self.solver(self.network, x0, cond).x1 if t is None else x0 + self.network(x0, t, cond)
        return self.codec.decode(x1), x1


class Widened(nn.Conv2d):
    """A convolution that takes fewer channels than it has, and zeros for the others."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of x (B, c, H, W)."""
        return super().forward(pad(x, (0, 0, 0, 0, 0, self.in_channels - x.shape[1])))


def widened(program: Enlarging) -> Enlarging:
    """Have convolutions of more than 4 channels take a multiple of 4; results are the same.

    onnxruntime-web 1.30 through WebGPU has wrong results for 6, which are two images in RGB
    (microsoft/onnxruntime#29651).
    """
    for conv in program.modules():
        if not isinstance(conv, nn.Conv2d) or type(conv) is not nn.Conv2d or conv.groups > 1:
            continue
        lacking = -conv.in_channels % 4
        if lacking and conv.in_channels > 4:
            conv.weight = nn.Parameter(pad(conv.weight, (0, 0, 0, 0, 0, lacking)), requires_grad=False)
            conv.in_channels += lacking
            conv.__class__ = Widened
    return program


def inputs_to_compare(generator: NoiseToImages, noise: Tensor) -> tuple[Tensor, ...]:
    """Return images of random pixels, enlarged, and t from 0 to 1 for noise (B, C, H, W).

    The pixels are a function of the noise; () for networks that read no image.
    """
    if not enlarges(generator):
        return ()
    degradation = upscaler(generator).degradation
    pixels = torch.special.ndtr(noise.flip(0, 3))[..., :: degradation.scale, :: degradation.scale]
    image = degradation.enlarge(pixels).float() * 2 - 1
    return (image, torch.linspace(0, 1, len(noise))) if takes_t(generator) else (image,)


def task_facts(generator: NoiseToImages) -> dict[str, Any]:
    """Return what a program needs to enlarge images as ``flowlit upscale`` does, as plain data."""
    task = upscaler(generator)
    return {
        "scale": task.scale,
        "degradation": spec(task.degradation),
        "start": spec(task.start),
        "t": getattr(generator.solver, "t", None),
        "tile": task.tiler.tile,
        "overlap": task.tiler.overlap,
    }


def line_of(degradation: Degradation) -> list[list[float]]:
    """Return the matrix, (scale · ``LINE``, ``LINE``), by which a degradation enlarges a line of pixels.

    Rows far from both ends are the same, shifted; those near them are what happens at the edges of longer
    lines, too.

    Raises:
        FlowlitError: if rows and columns are not enlarged by such a matrix each.
    """
    lines = torch.eye(LINE, dtype=torch.float64)[:, None, :, None].expand(-1, 1, LINE, LINE)
    matrix = degradation.enlarge(lines)[:, 0, :, 0].T
    image = torch.linspace(0, 1, LINE**2, dtype=torch.float64).square().reshape(1, 1, LINE, LINE)
    if not torch.allclose(degradation.enlarge(image)[0, 0], matrix @ image[0, 0] @ matrix.T, atol=1e-5):
        raise FlowlitError(
            f"{degradation!r} enlarges images in a way of its own, which a page does not have; use --to onnx"
        )
    return [[round(value, 12) for value in row] for row in matrix.tolist()]
