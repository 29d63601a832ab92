"""Images of a generator on the disk, any number: a folder of PNGs, a zip, or arrays."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .._support.files import check_room, write_atomically
from .._support.locks import locked_folder, locked_target
from .._support.nested import rows_of
from .._support.progress import Bar
from ..errors import FlowlitError
from .core import NoiseToImages
from .folder import RECORD, PictureFolder, check_channels, generation_of, made_with, write_png
from .sampling import Rows

HEADER = 300
"""Bytes of a PNG beside its pixels, about."""

ELSEWHERE = "choose another --into"


def facts_of(generator: NoiseToImages, rows: Rows) -> dict[str, Any]:
    """Return what decides about the images of rows."""
    parts = made_with(generation_of(generator))
    return {"noise": rows.identity, **parts, "precision": generator.precision}


def write_folder(path: Path, generator: NoiseToImages, rows: Rows, batch_size: int) -> None:
    """Write the images of rows into a folder, or those that it lacks.

    Raises:
        FlowlitError: before any work, for a folder of other images or files, images that a PNG cannot hold,
            and a disk that cannot hold them.
    """
    refuse_other_files(path)
    images = PictureFolder(path, facts_of(generator, rows), rows.num)
    with locked_folder(path, "sample", ELSEWHERE):
        _fill(images, generator, rows, batch_size, path)


def write_archive(path: Path, generator: NoiseToImages, rows: Rows, batch_size: int) -> None:
    """Write the images of rows as a zip, or as arrays (.npz).

    They wait in a folder beside it, ``<name>.parts``, from which the same call goes on after it was ended.

    Raises:
        FlowlitError: as ``write_folder``, and if the file exists.
    """
    parts = path.with_name(f"{path.name}.parts")
    refuse_other_files(parts)
    with locked_target(path):
        if path.exists():
            raise FlowlitError(f"{path} exists; remove it, or {ELSEWHERE}")
        images = PictureFolder(parts, facts_of(generator, rows), rows.num)
        labels = _fill(images, generator, rows, batch_size, path)
        _pack(path, images, labels, generator)
        shutil.rmtree(parts)


def _pack(path: Path, images: PictureFolder, labels: list[int | None], generator: NoiseToImages) -> None:
    from .archives import write_npz, write_zip

    if path.suffix == ".npz":
        write = partial(write_npz, images=images, labels=labels, shape=image_shape(generator))
    else:
        write = partial(write_zip, images=images, labels=labels, names=generator.class_names)
    write_atomically(path, write)


def refuse_other_files(folder: Path) -> None:
    """Refuse a folder with files of others, and a file in its place.

    Raises:
        FlowlitError: naming one of them.
    """
    if folder.exists() and not folder.is_dir():
        raise FlowlitError(f"{folder} is a file; expected a folder, so {ELSEWHERE}")
    if not folder.is_dir() or (folder / RECORD).exists():
        return
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise FlowlitError(
            f"{folder} holds {others[0]}{more} already, and no {RECORD} of images to go on with; {ELSEWHERE}"
        )


def image_shape(generator: NoiseToImages) -> tuple[int, ...]:
    """Return the shape (C, H, W) of a generator's images."""
    return tuple(generator.codec.decoded_shape(generator.shape or ()))


def _fill(
    images: PictureFolder, generator: NoiseToImages, rows: Rows, batch_size: int, target: Path
) -> list[int | None]:
    """Generate the images that a folder lacks, and list all; return the class of each."""
    shape = image_shape(generator)
    check_channels(shape[0])
    images.check()
    copies = 1 if target == images.path else 2
    _check_room(images, shape, copies, target)
    images.begin()
    labels: list[int | None] = []
    with Bar(total=rows.num, desc="Sampling", unit=" images") as bar:
        for first in range(0, rows.num, batch_size):
            batch = range(first, min(rows.num, first + batch_size))
            labels += _fill_batch(images, generator, rows, batch)
            bar.update(len(batch))
    images.finish(list(enumerate(labels)), generator.class_names, rows.seeds)
    return labels


def _check_room(images: PictureFolder, shape: Sequence[int], copies: int, target: Path) -> None:
    size = HEADER + torch.Size(shape).numel()
    there = sum(1 for _ in images.path.glob("*.png")) if images.path.is_dir() else 0
    needed = (copies * images.num - there) * size
    check_room(target.parent, needed, f"{images.num:,} images", f"make fewer, or {ELSEWHERE}")


def _fill_batch(
    images: PictureFolder, generator: NoiseToImages, rows: Rows, batch: range
) -> list[int | None]:
    """Generate the images of a batch that a folder lacks; return the class of each of the batch."""
    noise = rows.batch(batch)
    missing = [index for index in batch if not images.has(index)]
    if missing:
        places = torch.tensor([index - batch.start for index in missing])
        results = generator(noise.x0[places], rows_of(noise.cond, places)).cpu()
        for index, image in zip(missing, results, strict=True):
            write_png(images.file(index), image)
    label = noise.cond.get("label")
    return [None] * len(batch) if label is None else label.tolist()
