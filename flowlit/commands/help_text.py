"""The help of a command, remembered: making it takes the import of PyTorch and Lightning, many seconds for a
text.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path

PACKAGES = ("lightning", "jsonargparse", "torch")


def remembered(command: str, show: Callable[[], object]) -> str:
    """The help that ``show`` prints before it exits, or what it printed the last time if nothing has changed
    since.

    It is kept in the user's folder for caches; where that cannot be written, it is made each time.
    """
    folder = cache_folder()
    name = f"help-{command}-{shutil.get_terminal_size().columns}"
    file = folder / f"{name}-{state()}.txt"
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")
    shown = StringIO()
    try:
        with redirect_stdout(shown):
            show()
    except SystemExit as end:
        if end.code:
            raise
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{name}-*"):
            old.unlink(missing_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(shown.getvalue(), encoding="utf-8")
        new.replace(file)
    return shown.getvalue()


def cache_folder() -> Path:
    """Where the user's caches are; a place that cannot be written where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowlit"
    except RuntimeError:
        return Path(os.devnull) / "flowlit"


def state() -> str:
    """A short hash of all that a help depends on, beside the width of the terminal: sources and versions."""
    sources = sorted((str(path), path.stat().st_mtime_ns) for path in Path(__file__).parent.rglob("*.py"))
    facts = (sources, [version(package) for package in PACKAGES], sys.version)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
