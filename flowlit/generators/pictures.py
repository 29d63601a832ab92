"""Pictures of images: PIL's, and grids that can be looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._support.files import write_atomically
from ..errors import FlowlitError
from .inputs import whole_number
from .sampling import check_memory

if TYPE_CHECKING:
    from PIL.Image import Image

SMALL = 64
"""Pixels that an image in a grid has at least on its longer side, so that people see something of 8×8."""

GREY = 128
"""Level of the lines between images."""


def pil(images: Tensor) -> list[Image]:
    """Return uint8 images (N, C, H, W) as PIL's; C is 1 (grey) or 3 (RGB).

    >>> pil(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))[0].size
    (8, 8)

    Raises:
        FlowlitError: for other tensors.
    """
    from PIL.Image import fromarray

    arrays = _checked(images).permute(0, 2, 3, 1).cpu().numpy()
    return [fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]


def grid(images: Tensor, columns: int | None = None, scale: int | None = None) -> Image:
    """Return one picture of uint8 images (N, C, H, W), row by row; a notebook shows it.

    Args:
        images: C is 1 (grey) or 3 (RGB).
        columns: images in a row; None makes a square.
        scale: whole factor by which images are enlarged; None brings small ones to 64 pixels or more.

    >>> grid(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), columns=3, scale=1).size
    (28, 19)

    Raises:
        FlowlitError: for other tensors and numbers.
    """
    images = _checked(images)
    count = len(images)
    columns = math.ceil(math.sqrt(count)) if columns is None else whole_number(columns, "columns", 1)
    columns = min(columns, count)
    cells = F.pad(enlarged(images.cpu(), scale), (0, 1, 0, 1), value=GREY)
    rows = math.ceil(count / columns)
    empty = cells.new_full((rows * columns - count, *cells.shape[1:]), GREY)
    table = torch.cat([cells, empty]).unflatten(0, (rows, columns))
    picture = table.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
    return pil(F.pad(picture, (1, 0, 1, 0), value=GREY)[None])[0]


def enlarged(images: Tensor, scale: int | None = None) -> Tensor:
    """Repeat the pixels of images (N, C, H, W) by a factor; by None until a side has ``SMALL`` of them.

    >>> enlarged(torch.zeros(1, 1, 8, 6)).shape, enlarged(torch.zeros(1, 3, 64, 64)).shape
    (torch.Size([1, 1, 64, 48]), torch.Size([1, 3, 64, 64]))

    Raises:
        FlowlitError: if the factor is none, or the memory cannot hold them.
    """
    factor = -(-SMALL // max(images.shape[2:])) if scale is None else whole_number(scale, "scale", 1)
    check_memory(len(images), (factor, factor, *images.shape[1:]), "enlarged images")
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _checked(images: Any) -> Tensor:
    right = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4
    if right and images.shape[1] in (1, 3) and images.numel():
        return images
    shape = tuple(getattr(images, "shape", ()))
    kind = getattr(images, "dtype", type(images).__name__)
    raise FlowlitError(
        f"images are {kind} {shape}; expected uint8 (N, C, H, W) with 1 or 3 channels, as sample returns them"
    )


def write_picture(path: Path, picture: Image, facts: Mapping[str, Any]) -> None:
    """Write a picture as PNG, with facts as JSON in its text ``flowlit``."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("flowlit", json.dumps(facts, default=str))
    write_atomically(path, lambda file: picture.save(file, "PNG", pnginfo=text))


def write_animation(path: Path, frames: Sequence[Image], milliseconds: int = 80, hold: int = 800) -> None:
    """Write an animation without end, as GIF or WebP by the suffix.

    Args:
        path: ends in .gif or .webp.
        frames: pictures of one size.
        milliseconds: that each is shown.
        hold: that the first and the last one are shown.
    """
    durations = [milliseconds] * len(frames)
    durations[0] = durations[-1] = hold
    format = path.suffix[1:].upper()
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}

    def write(file: IO[bytes]) -> None:
        frames[0].save(
            file,
            format,
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            **options,
        )

    write_atomically(path, write)
