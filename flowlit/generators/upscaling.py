"""Images of any size, enlarged by a generator of super-resolution, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..couplings import NoisedImage
from ..data.degradations import Degradation, image_condition, seeded
from ..data.provenance import trained_on
from ..errors import FlowlitError
from ..networks import at_size
from ..networks.checkpoints.spec import build
from ..types import reads_of
from .colour import FIXES, ColourFix
from .core import NoiseToImages
from .tiles import NoiseField, Tile, Tiler

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
        self.channels = shape[0]
        tile = shape[1]
        overlap = tile // 4 if self.overlap is None else self.overlap
        if overlap >= tile:
            raise FlowlitError(f"overlap is {overlap}; expected fewer pixels than a tile has, {tile}")
        self.tiler = Tiler(tile, overlap)
        self.generator = replace(self.generator, blocks=tile <= SMALL_TILE)

    @property
    def scale(self) -> int:
        """Width of a result over that of its input."""
        return self.degradation.scale

    def tiles(self, height: int, width: int) -> int:
        """Return how many tiles an input of that size takes."""
        sides = (max(side * self.scale, self.tiler.tile) for side in (height, width))
        return len(self.tiler.tiles(*sides))

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
        low = mirrored_to(image.expand(self.channels, -1, -1), -(-self.tiler.tile // self.scale))[None]
        condition = image_condition(low, self.degradation, self.generator.codec)[0]
        x1 = self.tiler(self._solver(condition), condition.shape, self.batch, done)
        large = (x1[None] + 1) / 2
        if self.colour != "none":
            large = FIXES[self.colour](large, (condition[None] + 1) / 2)
        if self.back_projection:
            again = self.degradation(large, seeded([self.seed]))
            large = large + self.degradation.enlarge(low - again)
        large = large[0, :, : height * self.scale, : width * self.scale]
        return (large if channels == self.channels else large.mean(0, keepdim=True)).clamp(0, 1)

    def _solver(self, condition: Tensor) -> Callable[[Sequence[Tile]], Tensor]:
        field = NoiseField(self.seed, self.channels)

        def solve(tiles: Sequence[Tile]) -> Tensor:
            image = torch.stack([condition[:, tile.rows, tile.columns] for tile in tiles])
            noise = torch.stack([field(tile.rows, tile.columns) for tile in tiles])
            x0 = self.start(image, noise)
            at_once = len(tiles) if self.generator.blocks else 1
            parts = zip(x0.split(at_once), image.split(at_once), strict=True)
            with torch.no_grad():
                return torch.cat([self.generator.solve(x, {"image": c}).x1.cpu() for x, c in parts])

        def mended(tiles: Sequence[Tile]) -> Tensor:
            try:
                return solve(tiles)
            except torch.OutOfMemoryError as error:
                raise FlowlitError(
                    f"{len(tiles)} tiles at a time do not fit into the device's memory; choose a smaller "
                    "--batch, or --device cpu"
                ) from error

        return mended


def mirrored_to(image: Tensor, least: int) -> Tensor:
    """Return an image (C, H, W) whose sides have ``least`` pixels at least, mirrored at its lower right.

    The edge is repeated: abc becomes abccba….

    >>> mirrored_to(torch.tensor([[[1.0, 2.0, 3.0]]]), 5)[0, 0].tolist()
    [1.0, 2.0, 3.0, 3.0, 2.0]
    """
    for dim in (1, 2):
        side = image.shape[dim]
        place = torch.arange(max(side, least)) % (2 * side)
        image = image.index_select(dim, torch.minimum(place, 2 * side - 1 - place))
    return image


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
    if not generator.codec.pixels:
        raise FlowlitError(f"the codec is {generator.codec!r}; expected flowlit.data.Pixels")
    if t is not None:
        generator = _at(generator, t)
    degradation = build(task["degradation"], Degradation)
    if tile is not None:
        generator = _of_tiles(generator, tile, degradation.scale)
    return Upscaler(generator, degradation, build(task["start"], NoisedImage), **options)


def _of_tiles(generator: NoiseToImages, tile: int, scale: int) -> NoiseToImages:
    channels, side, _ = generator.shape or (0, 0, 0)
    if tile < side or tile % scale:
        raise FlowlitError(
            f"tile is {tile}; expected a multiple of the scale {scale}, and {side} pixels at least, as in "
            "training"
        )
    network = at_size(generator.network, tile, tile)
    return replace(generator, network=network, shape=(channels, tile, tile))


def _at(generator: NoiseToImages, t: float) -> NoiseToImages:
    solver = generator.solver
    if not getattr(solver, "takes_average", False) or not is_dataclass(solver) or not hasattr(solver, "t"):
        raise FlowlitError(
            f"t is {t:g}, but the checkpoint's solver is {solver!r}, which has no t; leave --t out, or "
            "take a student of flowlit.objectives.TrajectoryDistillation"
        )
    return replace(generator, solver=replace(solver, t=t))  # type: ignore[type-var]
