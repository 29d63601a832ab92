"""Hostile places: names that no file can have, files of kinds that block or never end, folders of others."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commandline import REPOSITORY
from stores import NOISE, REMARKS, identity

import flowlit
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.data import ImageFolder, ImageZip
from flowlit.metrics.reference import read_reference
from flowlit.networks.checkpoints.read import read_contents

from .row import Row

READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "an image folder": (lambda place: len(ImageFolder(place)), "older"),
    "an image zip": (lambda place: len(ImageZip(place)), "zip"),
    "several zips": (lambda place: len(ImageZip([place])), "zip"),
    "pairs": (lambda place: len(StoredPairs([place])), "manifest.json"),
    "a manifest": (read_manifest, "manifest.json"),
    "a reference": (read_reference, "reference statistics"),
    "a generator": (flowlit.load, "checkpoint"),
    "weights": (read_contents, "checkpoint"),
}
"""What reads a place, and a word of its errors."""


def _plain(folder: Path, name: str) -> str:
    return name


def _loop(folder: Path, name: str) -> str:
    (folder / name).symlink_to(folder / name)
    return str(folder / name)


def _socket(folder: Path, name: str) -> str:
    before = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
    os.chdir(before)
    return str(folder / name)


def _pipe(folder: Path, name: str) -> str:
    os.mkfifo(folder / name)
    return str(folder / name)


def _below_a_file(folder: Path, name: str) -> str:
    (folder / "file").touch()
    return str(folder / "file" / name)


PLACES: dict[str, tuple[Callable[[Path, str], str], str]] = {
    "a name of five thousand letters": (_plain, "x" * 5000),
    "a path of nine thousand": (_plain, "folder/" * 1300),
    "a name with NUL": (_plain, "a\0b"),
    "a name that is no text": (_plain, "missing-\udce4"),
    "no name": (_plain, ""),
    "zeros without end": (_plain, "/dev/zero"),
    "a link to itself": (_loop, "loop"),
    "a socket": (_socket, "socket"),
    "a pipe": (_pipe, "pipe"),
    "a place below a file": (_below_a_file, "b"),
}


def _read(
    reader: Callable[[str], Any], place: Callable[[Path, str], str], name: str
) -> Callable[[Path], Any]:
    return lambda folder: reader(place(folder, name))


def _foreign(*names: str) -> Callable[[Path], Any]:
    """Return an attempt to begin a store where there are other files."""

    def attempt(folder: Path) -> Any:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        origin = FromNoise(NOISE)
        store = Store(folder)
        with store.writing():
            store.begin(identity(origin, [40]), [40], REMARKS)
        return sorted(os.listdir(folder))

    return attempt


def _swapped(swap: Callable[[Path], None]) -> Callable[[Path], Any]:
    """Return an attempt to read a shard that became something else after the store was opened."""

    def attempt(folder: Path) -> Any:
        store = shutil.copytree(REPOSITORY / "tests/golden/before_move/couplings", folder / "pairs")
        pairs = StoredPairs([store])
        shard = sorted(store.glob("*.safetensors"))[0]
        shard.unlink()
        swap(shard)
        return pairs[0]

    return attempt


def _sparse(name: str, head: bytes) -> Callable[[Path], Any]:
    """Return an attempt to read an image of a terabyte, of which the disk has the first bytes alone."""

    def attempt(folder: Path) -> Any:
        (folder / name).write_bytes(head)
        os.truncate(folder / name, 1 << 40)
        return len(ImageFolder(str(folder)))

    return attempt


HEADS = {"a.png": b"\x89PNG\r\n\x1a\n", "a.jpg": b"\xff\xd8\xff\xe0", "a.bmp": b"BM", "a.webp": b"RIFF"}
OTHERS = ["thesis.tex", "photos/a.png", "manifest.json", "model.safetensors", "pairs.npz", "notes", "a b.txt"]
ROWS = [
    *(
        Row(f"place: {what}, {kind}", _read(reader, place, name), (word,))
        for what, (reader, word) in READERS.items()
        for kind, (place, name) in PLACES.items()
    ),
    *(Row(f"store: begun beside {name}", _foreign(name), ("manifest.json",)) for name in OTHERS),
    *(
        Row(f"image: {name} of a terabyte", _sparse(name, head), (name, "bytes"))
        for name, head in HEADS.items()
    ),
    Row("store: begun beside many files", _foreign("b.txt", "a.txt"), ("a.txt", "--store")),
    Row("shard: became a pipe", _swapped(os.mkfifo), ("no plain file",)),
    Row("shard: became a folder", _swapped(Path.mkdir), ("shard",)),
    Row("shard: became a link to itself", _swapped(lambda path: path.symlink_to(path)), ("shard",)),
]
