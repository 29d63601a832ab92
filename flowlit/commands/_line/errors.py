"""Every way out of a command in one line: what was wrong, and where."""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from ...errors import FlowlitError

TRACEBACK = "FLOWLIT_TRACEBACK"
"""Environment variable that brings tracebacks back."""

AGAIN = "start it again (fit: with --resume auto)"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that takes no more, of a quota, and of a limit of the shell (ulimit -f)."""

LENGTH = 600
"""Characters of a message, at most."""


def described(error: BaseException) -> str:
    """Return an error as a line for the user; an unexpected one with the place that it came from."""
    chain = list(_causes(error))
    for one in chain:
        text = _from_worker(one) or _expected(one)
        if text is not None:
            return text
    if "Union subtypes" in str(error):  # jsonargparse, of an error in a constructor
        from .parsing import reworded

        origin = chain[-1]
        return f"{reworded(str(error))} ({_place(origin)}); {TRACEBACK}=1 shows the traceback"
    return f"{_named(error)} ({_place(error)}); {TRACEBACK}=1 shows the traceback"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _expected(error: BaseException) -> str | None:
    """Return the text of an error that a user can mend, or of a machine that is at its end."""
    if isinstance(error, FlowlitError):
        return str(error)
    text = str(error)
    if type(error).__name__ == "MisconfigurationException" or _is_lightnings(error):
        return _one_line(text)
    if isinstance(error, TypeError) and "unexpected keyword" in text and _is_of_a_yaml(error):
        return f"{text}; dict_kwargs reach it unchecked, options belong under init_args"
    if isinstance(error, ValueError) and "embedded null" in text:
        return "the name of a file or folder has a zero byte; give it another"
    if isinstance(error, FileNotFoundError) and not _working_folder():
        return "the folder that flowlit was called from does not exist any more; call it from another one"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full ({error}); free some space and run it again (fit: with --resume auto)"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = _one_line(text.partition(". ")[0]) or "no memory is left"
        return f"out of memory ({what}); take a smaller batch, or trainer.accumulate_grad_batches"
    if not isinstance(error, RuntimeError):
        return None
    if re.search(r"gloo|NCCL|Connection (closed|reset) by peer", text):
        return f"another process of this run was lost; {AGAIN}"
    if re.search(r"DataLoader worker .*(killed|exited unexpectedly)", text):
        return f"a data worker was lost ({_one_line(text)}); fewer data.num_workers take less memory"
    return None


def _is_lightnings(error: BaseException) -> bool:
    """Return whether Lightning refused an option or a call, rather than fell over one."""
    frames = traceback.extract_tb(error.__traceback__)
    refused = isinstance(error, (ValueError, RuntimeError, ImportError, TypeError)) and " " in str(error)
    return (
        refused
        and bool(frames)
        and "/lightning/" in frames[-1].filename
        and "raise " in (frames[-1].line or "")
    )


def _is_of_a_yaml(error: BaseException) -> bool:
    """Return whether a call that jsonargparse makes for a YAML fails, rather than one inside it."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    outer = [file for file in frames if "/flowlit/ranges/" not in file]
    return bool(outer) and "/jsonargparse/" in outer[-1]


def _from_worker(error: BaseException) -> str | None:
    """Return the error of a data worker, of which only the traceback's text arrives."""
    arrived = re.match(r"['\"]?Caught (\w+) in (.*?)\.\n", str(error))
    if arrived is None:
        return None
    last = re.search(rf"^(?:[\w.]+\.)?{arrived[1]}(?:: (.*))?\Z", str(error).rstrip("'\"\n"), re.M | re.S)
    ours = isinstance(error, FlowlitError)
    text = last[1] or "" if last else str(error)
    if ours:
        return text
    places = re.findall(r'File "(.*?)", line (\d+), in (\S+)', str(error))
    where = f"{_short(places[-1][0])}:{places[-1][1]}, " if places else ""
    return f"{arrived[1]}: {_one_line(text)} ({where}{arrived[2]}); {TRACEBACK}=1 shows the traceback"


def _named(error: BaseException) -> str:
    text = _one_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    """Return where an error was raised, and the last place before it that is not in an installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "no place known"
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    shown = [frames[-1], *own[-1:]]
    places = dict.fromkeys(f"{_short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in shown)
    return ", called from ".join(places)


def _is_installed(file: str) -> bool:
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")}
    return any(file.startswith(f"{folder}/") for folder in folders) or file.startswith("<")


def _short(file: str) -> str:
    """Return a file below its installation or the working folder."""
    for folder in (sysconfig.get_path("purelib"), _working_folder(), str(Path(__file__).parents[3])):
        if folder and file.startswith(f"{folder}/"):
            return file.removeprefix(f"{folder}/")
    return file


def _working_folder() -> str:
    """Return the working folder; "" if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else f"{line[:LENGTH]}…"
