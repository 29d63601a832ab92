"""Images of any size by tiles of one size, blended so that no seams are seen.

Everything is in pixels of the output. A network sees a tile only: what it makes near the tile's border lacks
the other side. So a margin is cut off, and what neighbours share beyond it is blended by weights whose sum is
1 everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..couplings.noise import seeded_normals
from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeInt, PositiveInt


class Tile(NamedTuple):
    """Rows and columns of a tile in the image."""

    rows: slice
    columns: slice


@dataclass
class Tiler(Checked):
    """Tiles of one size over an image, which overlap by ``overlap`` pixels at least.

    A function of radius r (as a convolution of 2 r + 1 pixels) of the tiles is the function of the image, if
    the margin is r or more; other networks differ less, the wider the overlap.

    Args:
        tile: height and width, in pixels.
        overlap: of neighbours; 0 leaves seams. A quarter of the tile is a good value.
        margin: pixels cut off at each inner border, at most half the overlap; None takes a quarter of it. The
            remaining overlap is blended.
        unit: tiles begin at multiples of it; the tile and the sides of images are multiples of it, too.
    """

    tile: PositiveInt
    overlap: NonNegativeInt
    margin: NonNegativeInt | None = None
    unit: PositiveInt = 1

    def __post_init__(self) -> None:
        if self.overlap >= self.tile:
            raise FlowlitError(
                f"Tiler: overlap is {self.overlap}; expected fewer pixels than the tile's {self.tile}"
            )
        if self.tile % self.unit:
            raise FlowlitError(f"Tiler: tile is {self.tile}; expected a multiple of {self.unit}")
        if self.overlap > self.tile - self.unit:
            raise FlowlitError(
                f"Tiler: overlap is {self.overlap}; expected {self.tile - self.unit} pixels at most, the "
                f"tile's {self.tile} less {self.unit}, where the next one may begin"
            )
        if self.margin is not None and 2 * self.margin > self.overlap:
            raise FlowlitError(
                f"Tiler: margin is {self.margin}; expected at most half the overlap of {self.overlap}"
            )

    def starts(self, length: int) -> list[int]:
        """Return the first pixels of the tiles along a side, evenly spread; a short side has one tile.

        >>> Tiler(8, 2).starts(20), Tiler(8, 2).starts(5)
        ([0, 6, 12], [0])
        """
        more = max(0, length - self.tile)
        steps = -(-more // ((self.tile - self.overlap) // self.unit * self.unit))
        last = more // self.unit
        return [self.unit * round(step * last / steps) for step in range(steps + 1)] if steps else [0]

    def weights(self, length: int) -> Tensor:
        """Return the weights of the tiles along a side, (N, tile) float32; they sum to 1 at each pixel.

        The side is one of the tile at least. A weight is 0 in the margin, rises as sin² over the overlap, and
        is 1 where no other tile is.
        """
        starts = self.starts(length)
        margin = self.overlap // 4 if self.margin is None else self.margin
        ramp = self.overlap - 2 * margin
        place = torch.arange(self.tile, dtype=torch.float64) + 0.5 - margin
        rise = torch.where(place > 0, 1.0, 0.0).double()
        if ramp:
            rise = torch.sin(torch.pi / 2 * (place / ramp).clamp(0, 1)).square()
        weights = torch.ones(len(starts), self.tile, dtype=torch.float64)
        weights[1:] *= rise
        weights[:-1] *= rise.flip(0)
        total = torch.zeros(max(length, self.tile), dtype=torch.float64)
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + self.tile] += weight
        each = [total[start : start + self.tile] for start in starts]
        return (weights / torch.stack(each)).float()

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image of that size, row by row."""
        starts = itertools.product(self.starts(height), self.starts(width))
        return [Tile(slice(y, y + self.tile), slice(x, x + self.tile)) for y, x in starts]

    def __call__(
        self,
        function: Callable[[Sequence[Tile]], Tensor],
        shape: Sequence[int],
        batch: int = 1,
        done: Callable[[int], object] = lambda tiles: None,
    ) -> Tensor:
        """Return what a function makes of the tiles of an image, blended, (C, H, W) float32 in main memory.

        Pixels do not depend on the batch if those of the function do not: sums are in the tiles' order.

        Args:
            function: of ``batch`` tiles or fewer; returns (B, C, tile, tile) on any device.
            shape: (C, H, W) of the image, with sides of a tile at least.
            batch: tiles at a time.
            done: called with the number of tiles after each batch.

        Raises:
            FlowlitError: for an image that is smaller than a tile.
        """
        channels, height, width = shape
        if min(height, width) < self.tile:
            raise FlowlitError(f"an image of {width}×{height} is smaller than a tile of {self.tile}; pad it")
        down = self.weights(height)
        across = self.weights(width)
        columns = len(across)
        tiles = self.tiles(height, width)
        total = torch.zeros(channels, height, width)
        for first in range(0, len(tiles), batch):
            part = tiles[first : first + batch]
            images = function(part).float().cpu()
            for number, (tile, image) in enumerate(zip(part, images, strict=True), first):
                window = down[number // columns][:, None] * across[number % columns]
                total[:, tile.rows, tile.columns] += window * image
            done(len(part))
        return total


def mirrored_to(image: Tensor, least: int, multiple: int = 1) -> Tensor:
    """Return an image (C, H, W) whose sides have ``least`` pixels at least, mirrored at its lower right.

    The edge is repeated: abc becomes abccba…. Sides become multiples of ``multiple``.

    >>> mirrored_to(torch.tensor([[[1.0, 2.0, 3.0]]]), 5)[0, 0].tolist()
    [1.0, 2.0, 3.0, 3.0, 2.0]
    """
    for dim in (1, 2):
        side = image.shape[dim]
        place = torch.arange(-(-max(side, least) // multiple) * multiple) % (2 * side)
        image = image.index_select(dim, torch.minimum(place, 2 * side - 1 - place))
    return image


BLOCK = 32
"""Pixels of a side of the squares in which noise is drawn."""


@dataclass(frozen=True)
class NoiseField:
    """Noise N(0, 1) of the pixels of an endless plane: tiles have the same where they overlap.

    The noise of a pixel is a function of (seed, row, column) alone, whatever the image's size.
    """

    seed: int
    channels: int

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        """Return the noise of some pixels, (channels, rows, columns) float32.

        >>> field = NoiseField(7, 3)
        >>> wide = field(slice(0, 100), slice(60, 200))
        >>> torch.equal(wide[:, 10:20, 5:9], field(slice(10, 20), slice(65, 69)))
        True
        """
        top = rows.start // BLOCK
        left = columns.start // BLOCK
        down = range(top, -(-rows.stop // BLOCK))
        right = range(left, -(-columns.stop // BLOCK))
        numbers = [(y << 24) + x for y in down for x in right]
        drawn = seeded_normals([self.seed], numbers, (self.channels, BLOCK, BLOCK)).numpy()
        grid = drawn.reshape(len(down), len(right), self.channels, BLOCK, BLOCK)
        plane = np.transpose(grid, (2, 0, 3, 1, 4)).reshape(self.channels, len(down) * BLOCK, -1)
        inside = plane[:, _shifted(rows, top * BLOCK), _shifted(columns, left * BLOCK)]
        return torch.from_numpy(np.ascontiguousarray(inside))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)
