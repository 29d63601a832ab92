"""Folders of generated images: PNGs by number, a list of them, and a record of what they were made with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from torch import Tensor

from .._support.files import short_hash, write_atomically
from .._support.nested import flatten
from .._support.schema import Count, Format
from .._version import __version__
from ..errors import FlowlitError
from ..networks.checkpoints.fingerprint import identity
from ..networks.checkpoints.spec import spec

if TYPE_CHECKING:
    from .core import NoiseToImages

RECORD = "images.json"
LIST = "images.csv"
MEND = "choose another folder, or remove it"
_END = b"\0\0\0\0IEND\xaeB`\x82"


class Record(msgspec.Struct):
    """Facts that decide about every one of the images in a folder, and their number."""

    facts: dict[str, Any]
    images: Count
    complete: bool


FORMAT = Format(Record, "record of generated images", "choose another folder, or remove it", "flowlit-images")


@dataclass
class PictureFolder:
    """A folder of images ``00000000.png``, which the same command fills further.

    Beside them stand ``images.csv``, with file, index, class and its name, and ``images.json``, with what
    they were made with.

    Args:
        path: of the folder.
        facts: that decide about every image.
        num: images that there will be.
    """

    path: Path
    facts: Mapping[str, Any]
    num: int

    def check(self) -> None:
        """Refuse a folder that holds images of another run.

        Raises:
            FlowlitError: naming what differs.
        """
        check_same_images(self.path, self._record())

    def begin(self) -> None:
        """Check the folder, remove what a killed process left half-written, and write the record."""
        self.check()
        for left in self.path.glob(".*.png.*.tmp"):
            left.unlink(missing_ok=True)
        self._write_record(complete=False)

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return self.path / name_of(index)

    def has(self, index: int) -> bool:
        """Return whether an image is there to its end."""
        try:
            with open(self.file(index), "rb") as file:
                file.seek(-len(_END), io.SEEK_END)
                return file.read() == _END
        except OSError:  # there is none, or it is shorter
            return False

    def finish(
        self,
        rows: Sequence[tuple[int, int | None]],
        names: Sequence[str] | None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Write the list of all images, (index, class), and that they are all there."""
        write_atomically(self.path / LIST, listed(rows, names, seeds).encode())
        self._write_record(complete=True)

    def _record(self) -> dict[str, Any]:
        record = {"format": FORMAT.name, "version": 1, "flowlit": __version__, "facts": self.facts}
        return json.loads(json.dumps({**record, "images": self.num}, default=str))

    def _write_record(self, complete: bool) -> None:
        content = json.dumps({**self._record(), "complete": complete}, indent=1)
        write_atomically(self.path / RECORD, content.encode())


def made_with(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides about an image beside its noise: weights, structure, solver and codec.

    Args:
        generation: as ``FlowModule.generation`` and ``generation_of`` return it; its first solver is meant.
    """
    built = {key: value for key, value in generation["network"].items() if key != "weights"}
    return {
        "weights": generation["network"]["weights"],
        "network": short_hash(json.dumps(built, sort_keys=True, default=str)),
        "solver": next(iter(generation["solvers"].values())),
        "codec": generation["codec"],
        "rounding": generation["rounding"],
    }


def generation_of(generator: NoiseToImages) -> dict[str, Any]:
    """Return what turns noise into images: weights, solver with its fields, and codec."""
    solver = generator.solver
    codec = generator.codec
    return {
        "network": identity(generator.network),
        "solvers": {"solver": spec(solver) or identity(solver)},
        "codec": spec(codec) or identity(codec),
        "rounding": codec.rounding,
    }


def name_of(index: int) -> str:
    """Return the name of the file of an image."""
    return f"{index:08d}.png"


def write_png(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) uint8, whole or not at all.

    Raises:
        FlowlitError: unless it is grey or RGB.
    """
    check_channels(len(image))
    pixels = image.permute(1, 2, 0).cpu().numpy()
    write_atomically(path, lambda file: _encode(pixels, file), lasting=False)


def check_channels(channels: int) -> None:
    """Refuse images that a PNG cannot hold.

    Raises:
        FlowlitError: with their channels.
    """
    if channels not in (1, 3):
        raise FlowlitError(
            f"the codec decodes images of {channels} channels; a PNG is grey or RGB, 1 or 3; in Python "
            "Generator.sample returns any"
        )


def _encode(pixels: Any, file: Any) -> None:
    from PIL.Image import fromarray

    fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")


def check_same_images(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a folder that holds images of another run.

    Raises:
        FlowlitError: naming what differs.
    """
    path = folder / RECORD
    if not path.exists():
        images = sum(1 for _ in folder.glob("*.png"))
        if images:
            raise FlowlitError(
                f"{folder} holds {images:,} images already, and no {RECORD} that says how they were made; "
                f"{MEND}"
            )
        return
    record = FORMAT.read(path)
    known = flatten(record["facts"])
    now = flatten(wanted["facts"])
    different = [
        f"{key}: {known.get(key, 'none')!s:.40} there, {now.get(key, 'none')!s:.40} now"
        for key in dict.fromkeys((*now, *known))
        if known.get(key) != now.get(key)
    ]
    if record["images"] > wanted["images"]:
        different.append(f"{record['images']:,} images there, {wanted['images']:,} now")
    if different:
        more = f"; {len(different) - 3} more" if len(different) > 3 else ""
        raise FlowlitError(f"{folder} holds images of another run ({'; '.join(different[:3])}{more}); {MEND}")


def listed(
    rows: Sequence[tuple[int, int | None]], names: Sequence[str] | None, seeds: Sequence[int] | None = None
) -> str:
    """Return a table of images as CSV, from their indices and classes, and the seed of each if it has one.

    >>> print(listed([(0, 1)], ["cat", "dog"]).strip())
    file,index,class,name
    00000000.png,0,1,dog
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "index", "class", "name", *["seed"] * (seeds is not None)])
    for index, label in rows:
        name = names[label] if names is not None and label is not None and label < len(names) else ""
        seed = [] if seeds is None else [seeds[index]]
        writer.writerow([name_of(index), index, "" if label is None else label, name, *seed])
    return text.getvalue()
