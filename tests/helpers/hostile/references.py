"""Hostile reference statistics."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from commandline import Outcome, in_process

from flowlit.metrics.reference import read_reference

from .row import Row

SOUND = {"mu": np.zeros(3), "sigma": np.eye(3)}
PROTOCOL = {"format": "flowlit-reference", "version": 1, "features": {"name": "tiny"}}


def _arrays(**changes: Any) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        arrays = {key: value for key, value in {**SOUND, **changes}.items() if value is not None}
        np.savez(folder / "a.npz", **arrays)
        return read_reference(folder / "a.npz")

    return attempt


def _protocol(content: Any) -> Callable[[Path], Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    return _arrays(protocol=np.array(text))


def _bytes(data: bytes) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        (folder / "a.npz").write_bytes(data)
        return read_reference(folder / "a.npz")

    return attempt


def _bomb(folder: Path) -> Any:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (8192, 8192), }"
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("mu.npy", "w") as file:
            np.lib.format.write_array(file, np.zeros(8192))
        with archive.open("sigma.npy", "w") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            for _ in range(128):
                file.write(bytes(1 << 20))
    return read_reference(folder / "a.npz")


def _pipe(folder: Path) -> Any:
    os.mkfifo(folder / "a.npz")
    return read_reference(folder / "a.npz")


FIELDS: dict[str, list[Any]] = {
    "version": [2, "1", None, 0],
    "format": ["flowlit-metrics", 3],
    "features": [[], "tiny", {"name": 3}, {"sha256": 3}],
    "shape": [[8, 8], [1, -8, 8], [1, "8", 8], 8],
    "resolution": [0, -1, "32"],
    "range": ["wide", [None, 255]],
    "resize": [3, ["none"]],
    "count": [0, -5, "many", 1.5],
}
SHAPES: list[tuple[str, dict[str, Any], str]] = [
    ("no mean", {"mu": None}, "it has no mu"),
    ("no covariance", {"sigma": None}, "it has no sigma"),
    ("another dimension", {"sigma": np.eye(4)}, "sigma (4, 4)"),
    ("a mean of two dimensions", {"mu": np.zeros((1, 3))}, "mu has shape (1, 3)"),
    ("no features at all", {"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "d from 1"),
    ("too many features", {"mu": np.zeros(9000)}, "d from 1"),
    ("objects", {"mu": np.array([None])}, "allow_pickle"),
    ("complex numbers", {"mu": np.zeros(3, complex)}, "complex"),
    ("words", {"mu": np.array(["a"])}, "it holds"),
    ("NaN", {"mu": np.array([np.nan, 0, 0])}, "not finite"),
    ("infinity", {"sigma": np.diag([1, 1, np.inf])}, "not finite"),
    ("a triangle", {"sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
    ("variances below 0", {"sigma": -np.eye(3)}, "below 0"),
    ("features of another dimension", {"features": np.zeros((2, 4), np.float32)}, "(2, 4)"),
    ("features that are whole numbers", {"features": np.zeros((2, 3), int)}, "int64"),
]


def _without_name(folder: Path) -> Outcome:
    features = {"class_path": "flowlit.metrics.ClassifierFeatures", "init_args": {"checkpoint": "c.ckpt"}}
    images = {"class_path": "flowlit.data.Digits"}
    content = {"images": images, "features": features, "into": str(folder / "r.npz")}
    return in_process("reference", "-c", tiny.write(folder / "r.yaml", content))


ROWS = [
    Row("reference: features without a name", _without_name, ("features: ", "ClassifierFeatures", "name")),
    *(Row(f"reference: {name}", _arrays(**arrays), ("a.npz", word)) for name, arrays, word in SHAPES),
    *(
        Row(
            f"reference: its protocol's {field} is {value!r}",
            _protocol({**PROTOCOL, field: value}),
            ("protocol",),
        )
        for field, values in FIELDS.items()
        for value in values
        if not (field == "version" and value is None)
    ),
    *(
        Row(f"reference: its protocol is {name}", _protocol(text), ("protocol",))
        for name, text in (
            ("torn", "{"),
            ("a list", "[]"),
            ("a word", '"a"'),
            ("NaN", '{"count": NaN}'),
            ("deep", "[" * 9999),
        )
    ),
    *(
        Row(f"reference: {name}", _bytes(data), ("holds no reference statistics",))
        for name, data in (
            ("nothing", b""),
            ("text", b"mu"),
            ("a zip that is cut off", b"PK\x03\x04" + bytes(40)),
            ("a pickle", b"\x80\x04]."),
        )
    ),
    Row("reference: 128 MB of zeros in 128 KB", _bomb, ("would grow",)),
    Row("reference: a pipe", _pipe, ("a.npz",)),
    Row("reference: a folder", lambda folder: read_reference(folder), ("do not exist",)),
    Row("reference: a device", lambda folder: read_reference("/dev/zero"), ("do not exist",)),
]
ROWS += [
    Row(
        f"reference: {name} no covariance",
        _arrays(mu=np.zeros(len(sigma)), sigma=np.array(sigma)),
        ("no covariance",),
    )
    for name, sigma in [
        ("two numbers with", [[1.0, 2.0], [2.0, 1.0]]),
        ("variances of zero with", [[0.0, 1.0], [1.0, 0.0]]),
    ]
]
