"""Inputs of a stage that no stage of its recipe writes: images, zips, references, checkpoints given by hand,
Python files of one's own.

Each has a stamp, a line of text that changes when the input does. It is cheap: contents count where they are
small, sizes and times where they are large.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._yaml.references import resolved

SMALL = 4 << 20
"""Bytes up to which a file, or a folder, is known by its content."""

READ = {"root", "paths", "checkpoint", "ckpt_path", "reference", "store", "labels"}
"""Options that name what is read; it must be there."""

WRITTEN = {"save_dir", "dirpath", "cache", "default_root_dir", "into", "class_path", "name", "version", "dir"}
"""Options that name what is written, or no file at all."""

DOWNLOADS = {"flowlit.data.CIFAR10", "flowlit.images.CIFAR10"}
"""Sets that fetch what they read; their content is known."""

GONE = "gone"

Inputs = dict[str, str]
"""Stamps by path, as the configuration has it."""


def merged(base: Any, over: Any) -> Any:
    """Return a configuration with another on top: mappings merge, but a class takes no arguments of another.

    ``init_args`` is left out, so that files and options of the command line have the same keys.

    >>> merged({"a": {"class_path": "m.A", "init_args": {"x": 1, "y": 1}}}, {"a": {"x": 2}})
    {'a': {'class_path': 'm.A', 'x': 2, 'y': 1}}
    >>> merged({"a": {"class_path": "m.A", "init_args": {"x": 1}}}, {"a": {"class_path": "m.B"}})
    {'a': {'class_path': 'm.B'}}
    """
    if isinstance(over, list):
        return [merged({}, item) for item in over]
    if not isinstance(over, dict):
        return over
    over = _without_init_args(over)
    lower = _without_init_args(base) if isinstance(base, dict) else {}
    if "class_path" in over and over["class_path"] != lower.get("class_path"):
        lower = {}
    unchanged = {key: merged({}, value) for key, value in lower.items() if key not in over}
    changed = {key: merged(lower.get(key), value) for key, value in over.items()}
    return {key: (changed | unchanged)[key] for key in lower | over}


def _without_init_args(node: dict[str, Any]) -> dict[str, Any]:
    arguments = node.get("init_args")
    if not isinstance(arguments, dict):
        return node
    return {key: value for key, value in node.items() if key != "init_args"} | arguments


def nested(option: str, value: Any) -> dict[str, Any]:
    """Return a dotted option as nested mappings.

    >>> nested("a.init_args.b", 1)
    {'a': {'b': 1}}
    """
    for part in reversed([part for part in option.split(".") if part != "init_args"]):
        value = {part: value}
    return value


def named_paths(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (option, text) for each text of a configuration that may name an input, ``${…}`` in place."""
    for keys, text in _texts(content, ()):
        option = next((key for key in reversed(keys) if not key.isdigit()), "")
        full = resolved(text, content, keys)
        if option not in WRITTEN and full and "${" not in full and "\n" not in full and "://" not in full:
            yield option, full


def _texts(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, str):
        yield keys, node
    if isinstance(node, dict):
        skipped = {"root"} if node.get("class_path") in DOWNLOADS else set()
        skipped |= {"vars"} if not keys else set()
        for key, value in node.items():
            if key not in skipped:
                yield from _texts(value, (*keys, str(key)))
    if isinstance(node, list):
        for place, value in enumerate(node):
            yield from _texts(value, (*keys, str(place)))


def python_files(content: dict[str, Any]) -> Iterator[Path]:
    """Yield the files of classes that are neither installed nor part of flowlit; nothing is imported."""
    for keys, text in _texts(content, ()):
        parts = text.split(".")
        if keys[-1] == "class_path" and len(parts) > 1 and all(part.isidentifier() for part in parts):
            file = _module_file(parts[:-1])
            if file is not None:
                yield file


def _module_file(parts: list[str]) -> Path | None:
    try:
        spec = None if parts[0] == "flowlit" else find_spec(parts[0])
    except (ImportError, ValueError):
        return None
    if spec is None or parts[0] in sys.stdlib_module_names:
        return None
    file = Path(spec.origin or "")
    for folder in spec.submodule_search_locations or ():
        inner = Path(folder, *parts[1:])
        file = next((f for f in (inner.with_suffix(".py"), inner / "__init__.py") if f.is_file()), file)
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    own = file.suffix == ".py" and not any(file.is_relative_to(folder) for folder in installed)
    return file if own else None


def stamp(path: Path, besides: Path) -> str:
    """Return the stamp of a file or a folder; what lies below ``besides`` does not count."""
    if not os.path.exists(path):
        return GONE
    if path.is_file() and path.suffix == ".py":
        return _code_stamp(path)
    files = sorted(_files(path, besides))
    size = sum(status.st_size for _, status in files)
    known = hashlib.sha256()
    for file, status in files:
        name = os.path.relpath(file, path)
        known.update(f"{name} {status.st_size} ".encode(errors="surrogateescape"))
        if size <= SMALL:
            known.update(_content(file))
        else:
            known.update(str(status.st_mtime_ns).encode())
    count = f"{len(files):,} files, " if path.is_dir() else ""
    return f"{count}{size:,} bytes, {known.hexdigest()[:16]}"


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return b"unreadable"


def _code_stamp(path: Path) -> str:
    """Return a stamp of Python code that comments and blank lines do not change."""
    lines = (line.rstrip() for line in path.read_bytes().splitlines())
    code = b"\n".join(line for line in lines if line and not line.lstrip().startswith(b"#"))
    return f"code, {hashlib.sha256(code).hexdigest()[:16]}"


def _files(path: Path, besides: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the plain files of a folder, at any depth, links followed once; or the file itself."""
    if path.is_file():
        yield str(path), path.stat()
    seen: set[tuple[int, int]] = set()
    remaining = [str(path)] if path.is_dir() else []
    while remaining:
        folder = remaining.pop()
        status = os.stat(folder)
        place = (status.st_dev, status.st_ino)
        if place in seen or Path(folder).resolve() == besides:
            continue
        seen.add(place)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    remaining.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat()


def difference(before: Inputs, now: Inputs) -> list[str]:
    """Return a line for each input that is not what it was.

    >>> difference({"photos": "80 files, 90 bytes, a"}, {"photos": "79 files, 90 bytes, b"})
    ['photos: 80 files → 79 files']
    >>> difference({"a.zip": "9 bytes, a", "b.zip": "9 bytes, a"}, {"a.zip": "9 bytes, b"})
    ['a.zip: changed, still 9 bytes', 'b.zip: 9 bytes → gone']
    """
    changed = {name: now.get(name, GONE) for name, old in before.items() if now.get(name) != old}
    return [f"{name}: {_changed(before[name], new)}" for name, new in changed.items()]


def _changed(old: str, new: str) -> str:
    was = old.split(", ")[:-1]
    becomes = [new] if new == GONE else new.split(", ")[:-1]
    different = [f"{a} → {b}" for a, b in zip(was, becomes, strict=False) if a != b]
    return different[0] if different else f"changed, still {was[0]}"
