"""Hostile arrays of other projects, to be imported, and files of labels."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flowlit.couplings.labels import read_labels
from flowlit.couplings.store.foreign import PairFolder

from .row import Row


def _pairs_of(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.write_bytes(array) if isinstance(array, bytes) else np.save(path, array)
    return folder


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


SMOOTH = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4)
FOREIGN: list[tuple[str, dict[str, Any], str]] = [
    ("no data", {"z0": SMOOTH}, "z1.npy does not exist"),
    ("shapes that differ", {"z0": SMOOTH, "z1": SMOOTH[:1]}, "expected two arrays of one shape"),
    ("three dimensions", {"z0": SMOOTH[0], "z1": SMOOTH[0]}, "expected two arrays of one shape"),
    ("no rows", {"z0": SMOOTH[:0], "z1": SMOOTH[:0]}, "no rows"),
    ("no pixels", {"z0": SMOOTH[..., :0], "z1": SMOOTH[..., :0]}, "expected two arrays of one shape"),
    ("objects", {"z0": SMOOTH, "z1": np.array([{}] * 2, object)}, "allow_pickle"),
    ("complex numbers", {"z0": SMOOTH, "z1": SMOOTH + 1j}, "it holds complex64"),
    ("text", {"z0": SMOOTH, "z1": b"not an array"}, "cannot be read as a plain array"),
    ("nothing", {"z0": SMOOTH, "z1": b""}, "cannot be read as a plain array"),
    ("a zip", {"z0": SMOOTH, "z1": b"PK\x03\x04"}, "cannot be read as a plain array"),
    ("labels below 0", {"z0": SMOOTH, "z1": SMOOTH, "label": np.array([0, -1])}, "expected classes from 0"),
    (
        "labels without end",
        {"z0": SMOOTH, "z1": SMOOTH, "label": np.array([0, 2**62])},
        "expected classes from 0",
    ),
    ("labels of others", {"z0": SMOOTH, "z1": SMOOTH, "label": np.arange(3)}, "label.npy"),
    ("labels with fractions", {"z0": SMOOTH, "z1": SMOOTH, "label": np.array([0.5, 1])}, "label.npy"),
    *(
        (
            f"a header that says {shape}",
            {"z0": SMOOTH, "z1": _header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")},
            "cannot be read as a plain array",
        )
        for shape in (
            "(-1, 1, 4, 4)",
            "(10**9,)",
            "(1000000000000, 1, 4, 4)",
            "(2.0, 1, 4, 4)",
            "None",
            "(" * 99,
        )
    ),
]


def _foreign(arrays: dict[str, Any], **options: Any) -> Callable[[Path], Any]:
    return lambda folder: PairFolder(_pairs_of(folder, **arrays), **options).num_classes()


def _labels(name: str, content: Any) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
        return read_labels(str(path))

    return attempt


def _pipe(read: Callable[[str], Any], name: str = "pipe") -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        os.mkfifo(folder / name)
        return read(str(folder / name))

    return attempt


ROWS = [
    *(Row(f"pairs of others: {name}", _foreign(arrays), (word,)) for name, arrays, word in FOREIGN),
    *(
        Row(
            f"pairs of others: values from {low} to {high}",
            _foreign({"z0": SMOOTH, "z1": SMOOTH}, data_range=(low, high)),
            ("data_range",),
        )
        for low, high in ((0.0, 0.0), (1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf")))
    ),
    Row("file of labels: a pipe", _pipe(read_labels), ("pipe",)),
    Row("file of labels: a pipe that is called an array", _pipe(read_labels, "pipe.npy"), ("pipe",)),
    Row(
        "file of labels: a device", lambda folder: read_labels("/dev/zero"), ("/dev/zero", "a pipe or device")
    ),
    Row("file of labels: a folder", lambda folder: read_labels(str(folder)), ("a folder",)),
    *(
        Row(f"file of labels: {name}", _labels(file, content), (word,))
        for name, file, content, word in (
            ("words", "a.txt", b"cat\ndog\n", "cannot be read"),
            ("fractions", "b.txt", b"0.5\n", "cannot be read"),
            ("a number without end", "c.txt", b"9" * 400, "cannot be read"),
            ("bytes", "d.txt", bytes(range(128, 256)), "cannot be read"),
            ("fractions in an array", "e.npy", np.zeros(3), "expected whole numbers"),
            ("a table", "f.npy", np.zeros((3, 2), int), "expected whole numbers"),
            ("an empty array", "g.npy", np.zeros(0, int), "expected whole numbers"),
            ("objects", "h.npy", np.array([1, None]), "allow_pickle"),
        )
    ),
]
