"""Images of any size, enlarged by a generator of super-resolution, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._support.formatting import size
from .._support.machine import free_memory
from ..couplings import NoisedImage
from ..couplings.degraded import task_of
from ..data.codecs import from_levels, to_levels
from ..data.degradations import Degradation, seeded
from ..data.provenance import trained_on
from ..errors import FlowlitError
from ..networks import at_size
from ..networks.checkpoints.spec import build
from ..types import reads_of
from .colour import FIXES, ColourFix
from .core import NoiseToImages
from .tiles import NoiseField, Tile, Tiler, mirrored_to

SMALL_TILE = 64
"""Tiles of more pixels a side are computed one at a time, so that none is computed in vain."""


@dataclass
class Upscaler:
    """A generator, and how images were degraded in its training.

    Args:
        generator: whose network reads "image"; its noise has the shape of a tile.
        degradation: that it inverts.
        start: its x0 from the degraded image and noise.
        overlap: of tiles, in pixels of the result; None is a quarter of a tile.
        seed: of the noise, which belongs to pixels: no result depends on tiles or batches.
        batch: tiles at a time.
        colour: correction of colours by the enlarged input, see ``colour``.
        back_projection: add what the result lacks of the input, U(y - A x), so that degrading it gives the
            input again (exactly for ``AveragePool``). Not for noisy or compressed inputs.
    """

    generator: NoiseToImages
    degradation: Degradation
    start: NoisedImage
    overlap: int | None = None
    seed: int = 0
    batch: int = 16
    colour: ColourFix = "none"
    back_projection: bool = False

    def __post_init__(self) -> None:
        shape = self.generator.shape
        if shape is None or shape[1] != shape[2]:
            raise FlowlitError(f"the network is for images of shape {shape}; expected squares, (c, r, r)")
        self.channels, tile, _ = self.generator.codec.decoded_shape(shape)
        self.factor = tile // shape[1]
        self.low = "lr" in (reads_of(self.generator.network) or ())
        pixels = self.factor == 1 and not self.low
        unit = 1 if pixels else math.lcm(self.factor, self.scale)
        overlap = tile // 4 if self.overlap is None else self.overlap
        if overlap >= tile:
            raise FlowlitError(f"overlap is {overlap}; expected fewer pixels than a tile has, {tile}")
        self.tiler = Tiler(tile, overlap, unit=unit)
        self.generator = replace(self.generator, blocks=shape[1] <= SMALL_TILE)

    @property
    def scale(self) -> int:
        """Width of a result over that of its input."""
        return self.degradation.scale

    def tiles(self, height: int, width: int) -> int:
        """Return how many tiles an input of that size takes."""
        sides = (max(side * self.scale, self.tiler.tile) for side in (height, width))
        return len(self.tiler.tiles(*sides))

    def memory(self, height: int, width: int) -> int:
        """Return how many bytes of the main memory an input of that size takes, besides it and a batch."""
        copy = 4 * self.channels * height * width
        result = copy * self.scale**2
        needed = 2 * copy + 2 * result  # the input's edges mirrored; the sum of tiles, and the condition
        if self.colour != "none":
            needed += result + result // self.channels
        elif self.back_projection:
            needed += result
        matrices = 12 * self.scale * (height**2 + width**2)  # that enlarge the input
        return max(needed, result + matrices)

    def __call__(self, image: Tensor, done: Callable[[int], object] = lambda tiles: None) -> Tensor:
        """Return an image (C, h, w) in [0, 1] enlarged, (C, h · scale, w · scale) float32, clipped to [0, 1].

        A grey image of a network in colour is one without colours, and the result is grey again. Images that
        are smaller than a tile are mirrored at their edges.

        Args:
            image: C is 1, or the network's.
            done: called with the number of tiles after each batch.

        Raises:
            FlowlitError: for images in colour and a grey network, and without enough memory.
        """
        channels, height, width = image.shape
        if channels not in (1, self.channels):
            raise FlowlitError("it is in colour, but the network is for grey images; save it in grey")
        multiple = max(1, self.tiler.unit // self.scale)
        least = -(-self.tiler.tile // self.scale)
        low = mirrored_to(image.expand(self.channels, -1, -1), least, multiple)[None]
        self._check_memory(*low.shape[2:])
        condition = self.degradation.enlarge(low)[0].mul(2).sub_(1)
        results = self.tiler(self._solver(condition, low[0] * 2 - 1), condition.shape, self.batch, done)
        large = results.add_(1).div_(2)[None]
        if self.colour != "none":
            large = FIXES[self.colour](large, condition.add_(1).div_(2)[None])
        del condition, results
        if self.back_projection:
            again = self.degradation(large, seeded([self.seed]))
            large += self.degradation.enlarge(low - again)
        large = large[0, :, : height * self.scale, : width * self.scale]
        return (large if channels == self.channels else large.mean(0, keepdim=True)).clamp_(0, 1).contiguous()

    def _check_memory(self, height: int, width: int) -> None:
        needed = self.memory(height, width)
        free = free_memory(torch.device("cpu"))
        if needed > free:
            raise FlowlitError(
                f"a result of {width * self.scale}×{height * self.scale} needs {size(needed)} of memory "
                f"besides the network's, and {size(free)} are free; enlarge the image in parts"
            )

    def _solver(self, condition: Tensor, low: Tensor) -> Callable[[Sequence[Tile]], Tensor]:
        """Return the function from tiles to images in [-1, 1], given the enlarged and the low-resolution one.

        Both are (C, H, W) in [-1, 1].
        """
        generator = self.generator
        codec = generator.codec
        field = NoiseField(self.seed, (generator.shape or (0,))[0])

        def solve(tiles: Sequence[Tile]) -> Tensor:
            image = _parts(condition, tiles)
            cond = {"image": image if codec.pixels else codec.encode(to_levels(image.to(generator.device)))}
            if self.low:
                cond["lr"] = _parts(low, tiles, self.scale)
            places = [_over(tile, self.factor) for tile in tiles]
            noise = torch.stack([field(place.rows, place.columns) for place in places])
            x0 = self.start(cond["image"], noise.to(cond["image"].device))
            at_once = len(tiles) if generator.blocks else 1
            x1 = []
            with torch.no_grad():
                for first in range(0, len(tiles), at_once):
                    rows = slice(first, first + at_once)
                    given = {name: value[rows] for name, value in cond.items()}
                    x1.append(generator.solve(x0[rows], given).x1)
            solved = torch.cat(x1)
            return (solved if codec.pixels else from_levels(codec.decode(solved))).cpu()

        def mended(tiles: Sequence[Tile]) -> Tensor:
            try:
                return solve(tiles)
            except torch.OutOfMemoryError as error:
                raise FlowlitError(
                    f"{len(tiles)} tiles at a time do not fit into the device's memory; choose a smaller "
                    "--batch, or --device cpu"
                ) from error

        return mended


def _over(tile: Tile, factor: int) -> Tile:
    """Return the place of a tile in an image whose sides are so many times smaller."""
    rows, columns = (slice(side.start // factor, side.stop // factor) for side in tile)
    return Tile(rows, columns)


def _parts(image: Tensor, tiles: Sequence[Tile], factor: int = 1) -> Tensor:
    """Return the tiles of an image (C, H, W) that is so many times smaller than theirs, (B, C, h, w)."""
    places = [_over(tile, factor) for tile in tiles]
    return torch.stack([image[:, place.rows, place.columns] for place in places])


def upscaler_of(
    generator: NoiseToImages, t: float | None, scale: int | None, tile: int | None = None, **options: Any
) -> Upscaler:
    """Return the upscaler of a generator that was trained for super-resolution.

    Args:
        generator: as ``flowlit.load`` returns it.
        t: of ``flowlit.solvers.OneStep``, from fidelity (0) to realism (1); None is the checkpoint's.
        scale: that is expected; None takes the network's.
        tile: side of the tiles in pixels of the result; None is the size that the network was trained on.
        options: of ``Upscaler``.

    Raises:
        FlowlitError: for another network, another scale, tiles that are smaller than the images of training
            or that the network cannot take, and a t that its solver does not have.
    """
    task = (trained_on(generator.network) or {}).get("super_resolution")
    if not isinstance(task, dict) or "image" not in (reads_of(generator.network) or ()):
        raise FlowlitError(
            "the checkpoint is not of super-resolution; expected one of a network with a condition "
            '"image", as experiments/super_resolution/teacher.yaml trains it'
        )
    if scale is not None and scale != task.get("scale"):
        raise FlowlitError(f"scale is {scale}, but the network was trained for {task.get('scale')}")
    if t is not None:
        generator = _at(generator, t)
    degradation = build(task["degradation"], Degradation)
    if tile is not None:
        generator = _of_tiles(generator, tile, degradation.scale)
    return Upscaler(generator, degradation, build(task["start"], NoisedImage), **options)


def describe_task(network: nn.Module, degradation: Degradation, start: NoisedImage) -> None:
    """Record in a network of another project what it was trained for, so that saved it serves ``upscale``."""
    images = {"name": "images of another project", "images": 0, "fingerprint": "unknown"}
    network.trained_on = {**images, "super_resolution": task_of(degradation, start)}  # type: ignore[assignment]


def _of_tiles(generator: NoiseToImages, tile: int, scale: int) -> NoiseToImages:
    channels, side, _ = generator.shape or (0, 0, 0)
    pixels = generator.codec.decoded_shape((channels, side, side))[1]
    factor = pixels // side
    if tile < pixels or tile % scale or tile % factor:
        of_codec = f" and of the codec's {factor}" if factor > 1 else ""
        raise FlowlitError(
            f"tile is {tile}; expected a multiple of the scale {scale}{of_codec}, and {pixels} pixels at "
            "least, as in training"
        )
    shape = (channels, tile // factor, tile // factor)
    return replace(generator, network=at_size(generator.network, *shape[1:]), shape=shape)


def _at(generator: NoiseToImages, t: float) -> NoiseToImages:
    solver = generator.solver
    if not getattr(solver, "takes_average", False) or not is_dataclass(solver) or not hasattr(solver, "t"):
        raise FlowlitError(
            f"t is {t:g}, but the checkpoint's solver is {solver!r}, which has no t; leave --t out, or "
            "take a student of flowlit.objectives.TrajectoryDistillation"
        )
    return replace(generator, solver=replace(solver, t=t))  # type: ignore[type-var]
