"""Locks: one process at a time writes a folder or a file. A lock goes with its process, however that ends."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import WINDOWS, FlowlitError

try:
    import fcntl
except ImportError as error:
    raise ImportError(WINDOWS) from error

PATIENCE = 1.0
"""Seconds to wait for a process that is just ending: it lets go of its locks after its memory."""

_held: set[IO[str]] = set()


@contextmanager
def locked(file: Path, busy: str, mend: str, keep: bool = False) -> Iterator[None]:
    """Hold a lock; on a file system that has none, warn once and go on.

    Args:
        file: which is locked; its folder is made, and removed again if nothing else came into it.
        busy: what to say if another process holds it.
        mend: what to do about it, beside waiting.
        keep: leave the file behind.

    Raises:
        FlowlitError: if another process holds it, or its folder cannot be written.
    """
    folder = file.parent.absolute()
    before = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    lock = _acquire(file, busy, mend)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        if not lock.closed:  # as it is in a fork
            if not keep:
                file.unlink(missing_ok=True)
            lock.close()
            _remove_empty(folder, before)


def locked_folder(folder: Path, what: str, mend: str) -> AbstractContextManager[None]:
    """Hold the lock of one kind of writers in a folder, such as ``fit``; see ``locked``."""
    return locked(folder / f".{what}.lock", f"{folder}: another {what} is writing there", mend)


def locked_target(target: Path) -> AbstractContextManager[None]:
    """Hold the lock of a file or folder that is being made; see ``locked``."""
    file = target.with_name(f".{target.name}.lock")
    return locked(file, f"{target}: another process is making it", "choose another --into")


def refuse_at_work(folder: Path) -> None:
    """Refuse to touch a folder in which a process is writing.

    Raises:
        FlowlitError: naming the folder.
    """
    for file in folder.glob(".*lock"):
        # a holder that has just ended has removed its file
        with suppress(FileNotFoundError, IsADirectoryError), open(file, encoding="utf-8") as lock:
            if not _lock(lock, shared=True):
                raise FlowlitError(f"{folder}: another process{_holder(lock)} is writing there; wait for it")


def _acquire(file: Path, busy: str, mend: str) -> IO[str]:
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = open(file, "a+", encoding="utf-8")  # noqa: SIM115 - closed by the caller
        except OSError as error:
            raise FlowlitError(f"{file.parent} cannot be written ({error}); {mend}") from error
        if not _lock(lock):
            holder = _holder(lock)
            lock.close()
            raise FlowlitError(f"{busy}{holder}; wait for it, or {mend}")
        if _is_still_there(file, lock):
            with suppress(OSError):  # a full disk takes no name, and the lock holds without
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
            return lock
        lock.close()


def _lock(lock: IO[str], shared: bool = False) -> bool:
    """Lock an open file; return whether no other process holds it. Warn where a file system has no locks."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError as error:
            warnings.warn(
                f"flowlit: the file system of {lock.name} has no locks ({error}); nothing keeps a second "
                "process from writing there, too",
                stacklevel=2,
            )
            return True


def _is_still_there(file: Path, lock: IO[str]) -> bool:
    """Return whether the locked file was not removed by its last holder in between."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file), os.fstat(lock.fileno()))
    return False


def _holder(lock: IO[str]) -> str:
    """Return who holds a lock, as far as it is known."""
    lock.seek(0)
    holder = lock.read(200)
    return f" ({holder})" if holder.startswith("process ") else ""


def _remove_empty(folder: Path, before: Path) -> None:
    """Remove folders that were made for a lock alone."""
    with suppress(OSError):
        while folder != before:
            folder.rmdir()
            folder = folder.parent


def _close_in_fork() -> None:
    """Let go of the locks of the process that this one was forked from: data workers may outlive it."""
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_fork)
