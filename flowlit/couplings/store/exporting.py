"""Pairs for other projects: arrays, or a zip of images. A store is never in memory as a whole."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..._support.files import building, check_room, reserve
from ..._support.progress import Bar
from ...data.listing import member_name
from ...errors import FlowlitError
from ...types import Codec, Pair
from .encoding import restored_pair, stored_codec
from .reader import StoredPairs

ELSEWHERE = "free some, or choose another --into"


class Block(NamedTuple):
    """Consecutive rows of a store as float32."""

    start: int
    pair: Pair


def blocks(pairs: StoredPairs, desc: str, size: int = 1024) -> Iterator[Block]:
    """Yield the rows of a store in blocks, under a progress bar: x0 and x1 are (rows, C, H, W) float32."""
    for start in Bar(range(0, len(pairs), size), desc=desc, unit=" blocks"):
        pair = pairs.__getitems__(range(start, min(start + size, len(pairs))))
        yield Block(start, restored_pair(pair))


def export_folder(folder: str | Path, into: str | Path) -> None:
    """Write ``z0.npy``, ``z1.npy`` (pairs, C, H, W) float32 and, with classes, ``label.npy`` (pairs,) int64,
    as RectifiedFlow's code reads them; other conditions likewise, each under its name.

    Raises:
        FlowlitError: if ``into`` exists, or the disk cannot hold them.
    """
    pairs = StoredPairs([folder])
    shape = (len(pairs), *pairs.shape)
    names: dict[str, tuple[Any, tuple[int, ...]]] = {
        "z0.npy": (np.float32, shape),
        "z1.npy": (np.float32, shape),
    }
    for name, (dtype, size) in pairs.conditions.items():
        names[f"{name}.npy"] = (np.dtype(dtype), (len(pairs), *size))
    with building(Path(into)) as target:
        check_room(target.parent, 2 * 4 * math.prod(shape), "the arrays", ELSEWHERE)
        arrays = {name: _array(target / name, dtype, size) for name, (dtype, size) in names.items()}
        for start, pair in blocks(pairs, "Exporting"):
            cond = [pair.cond[name] for name in pairs.conditions]
            for name, rows in zip(names, (pair.x0, pair.x1, *cond), strict=True):
                arrays[name][start : start + len(rows)] = rows.numpy()
        for array in arrays.values():
            array.flush()


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """Create an array on disk, with all of its space."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    reserve(path)
    return array


def export_zip(folder: str | Path, into: str | Path) -> None:
    """Write the data ends as a zip of PNG files, with ``dataset.json`` if there are classes; the noise is
    left out.

    Raises:
        FlowlitError: if ``into`` exists, the disk cannot hold it, or the data has neither one channel nor
            three.
    """
    pairs = StoredPairs([folder])
    codec = stored_codec(pairs.manifest)
    shape = codec.decoded_shape(pairs.shape)
    if shape[0] not in (1, 3):
        raise FlowlitError(
            f"{folder}: a PNG has 1 or 3 channels, these images {shape[0]}; export a folder instead"
        )
    with building(Path(into), "images.zip") as temporary:
        check_room(temporary.parent, len(pairs) * (math.prod(shape) + 300), "the images", ELSEWHERE)
        _write_zip(pairs, codec, temporary / "images.zip")


def _write_zip(pairs: StoredPairs, codec: Codec, path: Path) -> None:
    labels: list[list[Any]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for start, pair in blocks(pairs, "Exporting"):
            for i, image in enumerate(codec.decode(pair.x1).permute(0, 2, 3, 1).numpy(), start):
                name = member_name(i)
                file = io.BytesIO()
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "png")
                archive.writestr(name, file.getvalue())
                if "label" in pair.cond:
                    labels.append([name, int(pair.cond["label"][i - start])])
        classes = {"classes": pairs.classes} if labels and pairs.classes else {}
        archive.writestr("dataset.json", json.dumps({"labels": labels or None, **classes}))
