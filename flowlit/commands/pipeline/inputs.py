"""Inputs of a stage that no stage of its recipe writes: images, zips, references, checkpoints given by hand,
Python files of one's own.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._yaml.references import resolved

READ = {"root", "paths", "checkpoint", "store", "source"}
"""Options that name what is read; it must be there."""

READ_OR_WORDS = {"ckpt_path", "reference", "labels"}
"""Options that name what is read, or are a word, such as ``ckpt_path: best``."""

WRITTEN = {"save_dir", "dirpath", "cache", "default_root_dir", "into", "class_path", "name", "version", "dir"}
WRITTEN |= {"log_dir", "out_dir", "output_dir", "work_dir", "log", "out", "output"}
"""Options that name what is written, or no file at all."""

DOWNLOADS = {"flowlit.data.CIFAR10", "flowlit.images.CIFAR10"}
"""Sets that fetch what they read unless ``download`` is false; their content is known."""


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
        full = resolved(text, [content], keys)
        if option not in WRITTEN and full and "${" not in full and "\n" not in full and "://" not in full:
            yield option, full


def _texts(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, str):
        yield keys, node
    if isinstance(node, dict):
        download = node.get("download", node.get("class_path") in DOWNLOADS)
        skipped = {"root"} if str(download).lower() == "true" else set()
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
