"""One command of a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..._support.files import matching
from ..._support.nested import flatten
from ..._version import __version__
from ...errors import FlowlitError
from .. import COMMANDS
from .._yaml import read_yaml
from .._yaml.references import check_references
from .._yaml.text import load_text
from .inputs import READ, READ_OR_WORDS, merged, named_paths, nested, python_files
from .stamps import GONE, Inputs, Stamps


class Stage(msgspec.Struct, forbid_unknown_fields=True):
    """One command of a recipe.

    Args:
        command: fit, couple, validate, test or predict.
        config: YAML file or files, later ones winning.
        writes: its result, relative to the recipe's root; the first folder of that path belongs to the stage.
        needs: stages that must be done before.
        options: dotted command-line options and their values.
    """

    name: str
    command: str
    config: str | list[str]
    writes: str
    needs: list[str] = []
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.command not in COMMANDS or self.command == "pipeline":
            raise ValueError(f"command is {self.command!r}; expected fit, couple, validate, test or predict")
        parts = Path(self.writes).parts
        if len(parts) < 2 or ".." in parts or Path(self.writes).is_absolute():
            raise ValueError(
                f"writes is {self.writes!r}; expected a file in a folder of the stage, below the root"
            )

    @property
    def configs(self) -> list[str]:
        return [self.config] if isinstance(self.config, str) else self.config

    def folder(self, root: Path) -> Path:
        return root / Path(self.writes).parts[0]

    def content(self) -> dict[str, Any]:
        """Everything that decides the result of the stage itself, flat."""
        facts: dict[str, Any] = {"command": self.command, "flowlit": __version__}
        for path in self.configs:
            facts |= flatten(read_yaml(path))
        for key, value in self.options.items():
            facts |= flatten(read_yaml(value), f"--{key}") if _is_file(value) else {f"--{key}": value}
        return facts

    def configuration(self, root: Path) -> dict[str, Any]:
        """Return files and options in one, nested, as the command will have them."""
        content: dict[str, Any] = {"vars": {}}
        for path in self.configs:
            content = merged(content, read_yaml(path))
        content = merged(content, {"vars": {"root": str(root)}})
        for key, value in self.options.items():
            content = merged(content, nested(key, _value(key, value)))
        check_references([content], f"stage {self.name}")
        return content

    def inputs(
        self, root: Path, written: list[Path], stamps: Stamps | None = None
    ) -> tuple[Inputs, list[str]]:
        """Return stamps of what the stage reads beside the results in ``written``, and what is missing."""
        stamps = stamps or Stamps(root)
        content = self.configuration(root)
        inputs = {name: stamps.stamp(Path(name)) for name, _ in _named(content, root, written)}
        inputs |= {str(file): stamps.stamp(file) for file in python_files(content)}
        missing = [name for name, stamp in inputs.items() if stamp == GONE]
        return {name: stamp for name, stamp in inputs.items() if stamp != GONE}, missing

    def uncertain(self, root: Path, written: list[Path]) -> list[str]:
        """Return inputs that may be results, as far as their options say: those that a run changes are."""
        named = list(_named(self.configuration(root), root, written))
        certain = {name for name, read in named if read}
        return [name for name, _ in named if name not in certain]

    def arguments(self, root: Path) -> list[str]:
        """Return the words after ``flowlit``."""
        words = [self.command]
        for path in self.configs:
            words += ["-c", path]
        words += ["--vars.root", str(root)]
        for key, value in self.options.items():
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        return words

    def lost(self, root: Path) -> Path | None:
        """Return a file of the stage's result that is not there any more, if there is one."""
        result = root / self.writes
        if not result.exists():
            return result
        if result.name != "manifest.json":
            return None
        try:
            shards = [result.with_name(entry["file"]) for entry in json.loads(result.read_bytes())["shards"]]
        except (OSError, ValueError, TypeError, KeyError):
            return None  # an error of the stage that reads it
        return next((shard for shard in shards if not shard.exists()), None)


def read_stage(path: str, name: Any, fields: Any) -> Stage:
    """Return a stage of a recipe's file.

    Raises:
        FlowlitError: naming the field that is wrong.
    """
    try:
        if not isinstance(fields, dict):
            raise ValueError(f"expected a mapping, found {type(fields).__name__}")
        return msgspec.convert({**fields, "name": name}, Stage)
    except ValueError as error:
        raise FlowlitError(
            f"{path}: stage {name}: {error}; it has command, config, writes, needs, options"
        ) from error


def _named(content: dict[str, Any], root: Path, written: list[Path]) -> Iterator[tuple[str, bool]]:
    """Yield the paths of a configuration that are inputs or may be, each with whether it is for certain."""
    named = ((option, name) for option, text in named_paths(content) for name in _each(option, text))
    for option, text in named:
        path = Path(text)
        full = path.absolute()
        if any(full.is_relative_to(folder.absolute()) for folder in written):
            continue
        if option == "ckpt_path" and text in ("best", "last"):
            continue
        formed = bool(path.suffix or path.parent != Path())
        if option in READ or (option in READ_OR_WORDS and (formed or os.path.exists(path))):
            yield text, True
        elif formed and os.path.exists(path) and full not in (root.absolute(), *root.absolute().parents):
            yield text, False


def _each(option: str, text: str) -> list[str]:
    """Return the files that a pattern names; another text, and a pattern of nothing, as it is."""
    return (matching(text) if option == "source" else []) or [text]


def _value(option: str, value: Any) -> Any:
    """Return the value of an option as the command will have it: of a file, or of a text that has a list, a
    mapping or nothing.
    """
    if _is_file(value):
        return read_yaml(value)
    if isinstance(value, str) and (value.startswith(("[", "{")) or value == "null"):
        with suppress(FlowlitError):  # no YAML: a text
            return load_text(value, f"--{option}")
    return value


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".yaml") and os.path.isfile(value)
