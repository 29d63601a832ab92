"""The state of a stage, in the stage's folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import FlowlitError


def move(source: Path, target: Path) -> None:
    """Move a folder, into another that may not exist yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a stage's folder; None if it has none."""
    try:
        return json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a stage, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".stage.json.tmp"
    temporary.write_text(json.dumps(state, indent=1, default=str), encoding="utf-8")
    os.replace(temporary, folder / "stage.json")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second pipeline out of the same root; the lock goes with the process, however it ends.

    Raises:
        FlowlitError: if another pipeline is at work there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FlowlitError(
                f"another pipeline is at work in {root}; wait for it, or choose another --root"
            ) from error
        yield
