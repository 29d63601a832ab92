"""The file of a recipe: its keys, and the rows of its table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...errors import FlowlitError
from .including import Reader, typed_variables


def read_recipe(path: str, words: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Read a recipe with all that it includes; the configurations it names stay names.

    Args:
        path: of the recipe.
        words: of the command line, whose variables choose what is included.

    Returns:
        its content, and the files that have it, its own first.
    """
    reader = Reader(typed_variables(words))
    content = reader.read(path, {})
    if "stages" not in content or "root" not in content:
        raise FlowlitError(f"{path} is not a recipe; expected root and stages")
    root = content["root"]
    if not isinstance(root, str) or not root:
        raise FlowlitError(
            f"{path}: root is {root!r}, expected the name of a folder; quotes make a text of it"
        )
    if not content["stages"]:
        raise FlowlitError(f"{path}: stages is empty, expected at least one")
    return content, reader.files


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row of the closing table: a model, the stage that measured it, and the name of a solver."""

    model: str
    stage: str
    solver: str


def read_table(path: str, table: Any, evaluations: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a recipe's table, each of one of these stages.

    Raises:
        FlowlitError: if one has another form, or names no stage that evaluates.
    """
    try:
        rows = [msgspec.structs.asdict(row) for row in msgspec.convert(table, list[Row])]
    except ValueError as error:
        raise FlowlitError(f"{path}: table: {error}; a row has model, stage and solver") from error
    for row in rows:
        if row["stage"] not in evaluations:
            expected = f"one of {', '.join(evaluations)}" if evaluations else "none, as no stage evaluates"
            raise FlowlitError(
                f"{path}: table: the stage of {row['model']!r} is {row['stage']!r}; expected one whose "
                f"command is validate or test: {expected}"
            )
    return rows


def stated_needs(path: str) -> str:
    """Return what a recipe's head says that it needs, as the end of an error; "" if it says nothing."""
    head = Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
    stated = re.search(r"^# +needs +(.+)$", head, re.MULTILINE)
    return f" (needs, says {path}: {stated[1].strip()})" if stated else ""
