"""Files that vanish, or become others, while they are read; full disks; a working folder that is gone."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import labelled
import tiny
from commandline import REPOSITORY, Outcome, in_process
from pictures import encoded, image

from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import ImageFolder, ImageZip
from flowlit.networks import pretrained

from .row import Row

GOLDEN = REPOSITORY / "tests/golden/before_move"
CHECKPOINT = GOLDEN / "teacher/checkpoints/last.ckpt"


def _folder(folder: Path) -> tuple[Any, Path]:
    root = labelled.folder(folder / "set", {"a": 2, "b": 2})
    return ImageFolder(str(root), channels=1), root / "a/000.png"


def _zip(folder: Path) -> tuple[Any, Path]:
    path = labelled.archive(folder / "set.zip", [["a.png", 0], ["b.png", 1]])
    return ImageZip(str(path), channels=1), path


def _pairs(folder: Path) -> tuple[Any, Path]:
    store = shutil.copytree(GOLDEN / "couplings", folder / "pairs")
    return StoredPairs([store]), sorted(store.glob("*.safetensors"))[0]


def _replaced(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


SETS: dict[str, Callable[[Path], tuple[Any, Path]]] = {
    "an image of a folder": _folder,
    "a zip": _zip,
    "a shard": _pairs,
}
CHANGES: dict[str, Callable[[Path], Any]] = {
    "removed": Path.unlink,
    "with all of its folder": lambda path: shutil.rmtree(path.parent),
    "emptied": lambda path: _replaced(path, b""),
    "cut in half": lambda path: _replaced(path, path.read_bytes()[: path.stat().st_size // 2]),
    "a text": lambda path: _replaced(path, b"no longer what it was" * 100),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


def _vanishing(make: Callable[[Path], tuple[Any, Path]], change: Callable[[Path], Any], look: bool) -> Any:
    """Return an attempt to read what changes after it was listed, and after it was decoded where ``look``."""

    def attempt(folder: Path) -> Any:
        images, path = make(folder)
        if look:
            len(images)
        elif hasattr(images, "listed"):
            images.listed()
        change(path)
        return len(images), images[0]

    return attempt


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """No file may have more bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _full(size: int, target: str, *words: object) -> Callable[[Path], Outcome]:
    """Return an attempt to write more than fits; nothing of it may stay."""

    def attempt(folder: Path) -> Outcome:
        for i in range(40):
            (folder / "photos").mkdir(exist_ok=True)
            (folder / f"photos/{i:02}.png").write_bytes(encoded(image("RGB")))
        shutil.copytree(GOLDEN / "couplings", folder / "pairs")
        before = sorted(folder.rglob("*"))
        with _limited(size):
            outcome = in_process(*(str(word).replace("{}", str(folder)) for word in (*words, target)))
        assert sorted(folder.rglob("*")) == before, "something stays"
        return outcome

    return attempt


FULL: dict[str, tuple[int, str, tuple[object, ...]]] = {
    "images": (5000, "{}/x.zip", ("images", "{}/photos", "--resolution", 16, "--into")),
    "images, at once": (10, "{}/x.zip", ("images", "{}/photos", "--resolution", 16, "--into")),
    "couplings export": (500, "{}/x", ("couplings", "export", "{}/pairs", "--into")),
    "couplings export, a zip": (500, "{}/x.zip", ("couplings", "export", "{}/pairs", "--into")),
    "couplings merge": (200, "{}/x", ("couplings", "merge", "{}/pairs", "--into")),
    "couplings show": (500, "{}/x.png", ("couplings", "show", "{}/pairs", "--into")),
    "convert": (20_000, "{}/x.safetensors", ("convert", CHECKPOINT, "--into")),
    "init": (300, "{}/x", ("init",)),
}


def _gone(*words: object, network: Any = None) -> Callable[[Path], Outcome]:
    """Return an attempt to call flowlit from a folder that was removed."""

    def attempt(folder: Path) -> Outcome:
        path = tiny.write(folder / "run.yaml", tiny.fit(folder / "run", network=network))
        before = os.getcwd()
        (folder / "gone").mkdir()
        os.chdir(folder / "gone")
        (folder / "gone").rmdir()
        try:
            return in_process(*(path if word == "RUN" else word for word in words))
        finally:
            os.chdir(before)

    return attempt


NOWHERE = ("flowlit was called from", "call it from another one")
ROWS = [
    *(
        Row(f"vanishing: {name} {what}{', after it was decoded' if look else ''}", attempt, ())
        for name, make in SETS.items()
        for what, change in CHANGES.items()
        for look in ((False, True) if make is _folder else (False,))
        if (attempt := _vanishing(make, change, look))
        if make is not _zip or what != "cut in half"  # the first image is in the first half
    ),
    *(
        Row(f"a full disk: {name}", _full(size, target, *words), ("x", "File too large"))
        for name, (size, target, words) in FULL.items()
    ),
    Row("no working folder: fit", _gone("fit", "-c", "RUN"), NOWHERE),
    Row("no working folder: doctor", _gone("doctor", "-c", "RUN"), NOWHERE),
    Row("no working folder: validate", _gone("validate", "-c", "RUN", "--untrained", "true"), NOWHERE),
    Row("no working folder: a relative file", _gone("fit", "-c", "run.yaml"), ("run.yaml",)),
    Row("no working folder: a store", _gone("couplings", "info", "pairs"), ("pairs",)),
    Row("no working folder: images", _gone("images", "a", "--resolution", 8, "--into", "x.zip"), ("a ",)),
    Row("no working folder: a checkpoint", lambda folder: pretrained(str(folder / "x.ckpt")), ("x.ckpt",)),
]
