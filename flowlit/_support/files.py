"""Files that are either whole or absent, their hashes, and the room that they need."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import FlowlitError
from .locks import locked_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: str | Path, what: str, mend: str) -> int:
    """Return the size of a file, in bytes; links are followed. A pipe or device would block, or never end.

    Args:
        path: of the file.
        what: it is to be, in words.
        mend: what to do about it.

    Raises:
        FlowlitError: if it is missing, or no plain file.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        why = "it does not exist" if missing else error
        raise FlowlitError(f"{what} {path} cannot be read ({why}); {mend}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise FlowlitError(f"{what} {path} is {kind}, expected a file; {mend}")
    return status.st_size


def open_plain(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file, as ``os.open`` or the ``opener`` of ``open``, but no pipe or device, which might block.

    Raises:
        OSError: if it is one, or cannot be opened; it may have been a file when it was checked.
    """
    fd = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))


def check_room(folder: Path, needed: int, what: str, mend: str) -> None:
    """Refuse before any work what a disk cannot hold.

    Args:
        folder: on that disk; it need not exist yet.
        needed: bytes.
        what: that needs them, in the plural.
        mend: what to do about it.

    Raises:
        FlowlitError: if they are more than is free.
    """
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise FlowlitError(
            f"{folder}: {what} need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; {mend}"
        )


def matching(name: str) -> list[str]:
    """Return the files that a pattern such as ``train-*.zip`` names, in alphabetical order; what exists under
    that very name is itself.
    """
    return [name] if os.path.lexists(name) else sorted(glob(name))


def reserve(path: Path) -> None:
    """Reserve the space of a file that was mapped before it is written: a full disk is then an error here,
    and not a signal that ends the process when pages are written. macOS has no such function.
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        with open(path, "r+b") as file:
            allocate(file.fileno(), 0, path.stat().st_size)


def write_atomically(
    path: Path, content: bytes | Callable[[IO[bytes]], object], lasting: bool = True
) -> None:
    """Write a file so that it is either absent or whole, also after a power cut.

    Args:
        path: of the file.
        content: its bytes, or a function that writes them.
        lasting: wait until the disk has it; without, only a killed process leaves nothing half-written, which
            is enough for many small files that can be made again.

    Raises:
        FlowlitError: if the disk is full or cannot be written; nothing that was there before is lost.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if lasting:
            _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise FlowlitError(
            f"{path} cannot be written ({error}); free some space and run the same command again"
        ) from error


def write_figure(path: Path, figure: Figure, dpi: float | str = "figure") -> None:
    """Write a figure, whole or not at all, in the format of the file's ending (PNG without one).

    Args:
        path: of the file.
        figure: to write.
        dpi: pixels an inch; as the figure has it unless given.

    Raises:
        ValueError: for an ending that names no format.
        FlowlitError: if the disk is full or cannot be written.
    """
    kind = path.suffix.removeprefix(".") or "png"
    write_atomically(path, lambda file: figure.savefig(file, format=kind, dpi=dpi))


@contextmanager
def building(
    target: Path,
    file: str | None = None,
    again: bool = False,
    replaces: Callable[[Path], bool] = lambda there: False,
) -> Iterator[Path]:
    """Yield a folder beside ``target``, to be filled. It, or this file in it, becomes ``target`` at the end;
    if anything fails, nothing of it stays.

    Args:
        target: the folder or file to make.
        file: name in the folder of what becomes ``target``.
        again: this file may be there already, of the same bytes.
        replaces: whether what is there may be replaced. It stays until the new one is whole. Who is killed
            between the two leaves it as .<name>.old, which the next one brings back.

    Raises:
        FlowlitError: if ``target`` exists or another process makes it, or the disk is full or cannot be
            written.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    result = temporary / file if file else temporary
    exists = FlowlitError(f"{target} exists already; remove it, or choose another --into")
    with locked_target(target):
        try:
            _bring_back(target, replaces)
            if target.exists() and not (again or replaces(target)):
                raise exists
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            _sync_folder(temporary)
            if not target.exists():
                result.rename(target)
            elif replaces(target):
                target.rename(_old(target))
                result.rename(target)
            elif not again or not filecmp.cmp(result, target, shallow=False):
                raise exists
        except OSError as error:
            raise FlowlitError(
                f"{target} cannot be written ({error}); free some space, or choose another --into"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # the next one tries again
                _bring_back(target, replaces)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _bring_back(target: Path, replaces: Callable[[Path], bool]) -> None:
    """Give what was to be replaced its name again; remove it where the new one has that name."""
    old = _old(target)
    if not old.exists() or not replaces(old):
        return
    if not target.exists():
        old.rename(target)
    elif old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def short_hash(*parts: object) -> str:
    """Sixteen digits of a SHA-256, for names of files."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
