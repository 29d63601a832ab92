"""Hostile stores of pairs, and pairs of other projects."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commandline import REPOSITORY, in_process
from hostile_bytes import nested

from flowlit.couplings import Cached
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.plan import plan
from flowlit.couplings.store.verify import verify

from .row import Row

OLD = REPOSITORY / "tests/golden/before_move/couplings"
GOOD: dict[str, Any] = json.loads((OLD / "manifest.json").read_text())
FIRST, SECOND = GOOD["shards"]


def _store(folder: Path, content: Any) -> Path:
    store = shutil.copytree(OLD, folder / "pairs")
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (store / "manifest.json").write_bytes(data)
    return store


def _manifest(content: Any, read: Callable[[Path], Any] = read_manifest) -> Callable[[Path], Any]:
    return lambda folder: read(_store(folder, content))


def _train(store: Path) -> Any:
    pairs = Cached(str(store), checksums=False).dataset()
    return pairs.__getitems__(range(len(pairs)))


def _listed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "shards": [{**FIRST, **changes}, SECOND]}


BYTES: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "truncated"),
    ("half", json.dumps(GOOD).encode()[:500], "truncated"),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "byte order mark"),
    ("UTF-16", json.dumps(GOOD).encode("utf-16"), "byte order mark"),
    ("latin letters", b'{"format": "caf\xe9"}', "not UTF-8"),
    ("NaN", json.dumps({**GOOD, "range": [float("nan"), 1]}).encode(), "malformed"),
    ("a number without end", b'{"counts": ' + b"9" * 6000 + b"}", "out of range"),
    ("1e999", b'{"range": [0, 1e999]}', "out of range"),
    ("lists a hundred thousand deep", b"[" * 100_000, "too deep"),
    ("mappings a hundred thousand deep", b'{"a":' * 100_000, "too deep"),
    ("a key twice", json.dumps(GOOD).encode()[:-1] + b', "counts": [4]}', "counts twice"),
    ("half a character", b'{"format": "\\ud800"}', "truncated"),
    ("two values", json.dumps(GOOD).encode() * 2, "trailing"),
    ("a pickle", b"\x80\x04]\x94.", "not UTF-8"),
    ("65 MB", b" " * (65 << 20), "expected at most"),
]


FIELDS: dict[str, list[Any]] = {
    "format": [None, 3, "zarr", ["flowlit-couplings"]],
    "version": [None, "2", 2.5, True, 0, 1, 3, 10**30],
    "direction": [None, 1, "data to noise"],
    "shape": [
        None,
        [],
        [-1],
        [0, 8, 8],
        [1.5, 8, 8],
        ["1", "8", "8"],
        [10**9] * 3,
        [1] * 9,
        "1x8x8",
        nested(9),
    ],
    "x0": [None, "float8", 16, "uint8"],
    "x1": [None, "seed", "float64", []],
    "labels": [
        3,
        {},
        {"num_classes": 0, "law": "balanced"},
        {"num_classes": -1, "law": ""},
        {"num_classes": 3},
    ],
    "noise": [None, [], {"generator": 3}, {"standard_normal": "yes"}],
    "shard_size": [0, -1, 2.5, "4", None],
    "seeds": [None, [], [-1], [1.5], ["1"], [2], [2**128, 1]],
    "counts": [None, [], [0], [-8], [8, 8], [8, 4], [10**12], [10**18], [2**70], ["8"], 8, [nested(9)]],
    "count": [0, 7, "8", 10**12],
    "complete": [None, 1, "yes"],
    "shards": [None, {}, [None], []],
    "nfe": [[], {"mean": -1, "min": 0, "max": 0}, {"mean": 1}],
    "range": [[1], [None, 1], "wide"],
    "rounding": [{}, {"x0": {"rms": -1, "max": 0}, "x1": {"rms": 0, "max": 0}}],
    "codec": ["Pixels", {}, [1]],
    "conditions": [
        [],
        {"a/b": ["float32", []]},
        {"lr": ["float8", []]},
        {"lr": ["float32", [-1]]},
        {"lr": 3},
    ],
}
FIELDS["codec"].remove({})  # a codec without facts is none


ENTRIES: dict[str, list[Any]] = {
    "file": ["/etc/passwd", "../00000.safetensors", "a/00000.safetensors", "00007.safetensors", "", None, 0],
    "rows": [0, -4, 3, 5, 10**12, "4", None],
    "seed": [-1, 2, "1", None],
    "index": [[3, 0], [-4, -1], [0, 1], [0], [0, 2**70], "03"],
    "bytes": [0, -1, 1, "many"],
    "sha256": ["", "0" * 63, "A" * 64, None],
    "nfe": [{}, {"sum": -1, "min": 0, "max": 0}, {"sum": 0, "min": 3, "max": 2}],
    "range": [[2, 1], [0], None],
}


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:40]}…"


def _where(field: str) -> tuple[str, ...]:
    """Return the words of an error about a field; another one may find it first."""
    return (
        ("manifest.json",) if field not in ("file", "rows") else ("manifest.json", "make the couplings again")
    )


def _pipe_as_manifest(folder: Path) -> Any:
    os.mkfifo(folder / "manifest.json")
    return read_manifest(folder)


ENDLESS = {**GOOD, "counts": [10**12], "count": 10**12}
ROWS = [
    *(Row(f"manifest: {name}", _manifest(data), ("manifest.json", word)) for name, data, word in BYTES),
    *(
        Row(f"manifest: {field} {_text(value)}", _manifest({**GOOD, field: value}), ("manifest.json",))
        for field, values in FIELDS.items()
        for value in values
    ),
    *(
        Row(
            f"manifest without {field}",
            _manifest({key: fact for key, fact in GOOD.items() if key != field}),
            ("lacks", field),
        )
        for field in (
            "format",
            "direction",
            "origin",
            "shape",
            "labels",
            "noise",
            "seeds",
            "counts",
            "shards",
            "flowlit",
        )
    ),
    *(
        Row(f"a shard whose {field} is {_text(value)}", _manifest(_listed(**{field: value})), _where(field))
        for field, values in ENTRIES.items()
        for value in values
    ),
    *(
        Row(f"training on a store: {name}", _manifest({**GOOD, **change}, _train), words)
        for name, change, words in (
            ("of a trillion pairs", {"counts": [10**12], "count": 10**12}, ("250,000,000,000 shards",)),
            ("with rows from a seed, which are stored", {"x0": "seed"}, ("missing or corrupt", "probe")),
            ("with labels that it lacks", {"labels": {"num_classes": 2, "law": "balanced"}}, ("label",)),
            ("with a condition that it lacks", {"conditions": {"lr": ["float32", []]}}, ("lr",)),
            ("of another dtype", {"x1": "uint8"}, ("x1 is float16", "the manifest says uint8")),
        )
    ),
    *(
        Row(
            f"couplings {words[0]}: a trillion pairs",
            lambda folder, words=words: in_process(
                "couplings", words[0], _store(folder, ENDLESS), *words[1:]
            ),
            ("250,000,000,000 shards",),
        )
        for words in (
            ["info"],
            ["verify"],
            ["merge", "--into", "x"],
            ["export", "--into", "x"],
            ["show", "--into", "x.png"],
        )
    ),
    Row(
        "couplings verify: a newer store",
        _manifest({**GOOD, "version": 3}, verify),
        ("version 3", "install a newer"),
    ),
    *(
        Row(f"manifest: it lists {name}", _manifest({**GOOD, "shards": shards}), ("manifest.json",))
        for name, shards in (
            ("one of two", [FIRST]),
            ("one of two, twice", [FIRST, FIRST]),
            ("one of three twice", [FIRST, SECOND, SECOND]),
            ("both a hundred times", [FIRST, SECOND] * 100),
            ("the same rows under two names", [FIRST, {**FIRST, "file": SECOND["file"]}, SECOND]),
        )
    ),
    *(
        Row(
            f"pairs to be made: {num:.0e}, {size} a file",
            lambda _, num=num, size=size: plan([num], size),
            ("raise --shard_size",),
        )
        for num, size in ((10**9, 1), (10**12, 1000), (2**70, 1000), (2**70, 10**12))
    ),
    Row("manifest: a pipe", _pipe_as_manifest, ("manifest.json", "a pipe")),
]
ROWS += [
    Row(f"manifest: {name}", _manifest({**GOOD, **change}), ("manifest.json", word))
    for name, change, word in [
        ("a range upside down", {"range": [5, -5]}, "minimum first"),
        ("a mean of evaluations beyond their maximum", {"nfe": {"mean": 1e300, "min": 1, "max": 2}}, "mean"),
        ("a class twice", {"classes": ["a", "a"]}, "names that differ"),
        ("no classes", {"classes": []}, "names that differ"),
    ]
]
