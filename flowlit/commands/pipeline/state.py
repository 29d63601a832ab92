"""The state of a stage, in the stage's folder."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..._support import locks
from ..._support.files import write_atomically
from ..._support.schema import Format
from ...errors import FlowlitError


def move(source: Path, target: Path) -> None:
    """Move a folder, into another that may not exist yet.

    Raises:
        FlowlitError: if a process is writing there, such as a fit that was started by hand.
    """
    locks.refuse_at_work(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


class StageState(Struct):
    """State of a stage. Its key becomes part of a folder's name."""

    key: Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    done: bool
    seconds: Annotated[float, Meta(ge=0)]
    content: dict[str, Any]
    result: str | None = None
    inputs: dict[str, str] | None = None
    contents: dict[str, str] | None = None
    """Hashes of inputs whose stamps have times."""
    rewritten: list[str] | None = None
    """Inputs that the stage has changed itself, which are none."""
    words: list[str] | None = None
    """Command line, after ``flowlit``."""


STATE = Format(StageState, "state of a stage", "run the pipeline again")


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a stage's folder; None if it has none, or a damaged one: the stage runs again."""
    try:
        return STATE.read(folder / "stage.json")
    except FlowlitError:
        return None


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a stage, whole or not at all."""
    write_atomically(folder / "stage.json", json.dumps(state, indent=1, default=str).encode())


def locked(root: Path) -> AbstractContextManager[None]:
    """Keep a second pipeline out of the same root; the lock goes with the process, however it ends.

    Raises:
        FlowlitError: if another pipeline is at work there.
    """
    busy = f"another pipeline is at work in {root}"
    return locks.locked(root / ".lock", busy, "choose another --root", keep=True)
