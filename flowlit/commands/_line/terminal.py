"""Standard output and error that never fail: a result is kept, whether or not it can be printed.

A character that the terminal has not is replaced by a plain sign. When a pipe is closed or a disk is full,
the rest goes nowhere, and the command goes on.
"""

from __future__ import annotations

import codecs
import errno
import locale
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = {"→": "->", "×": "x", "–": "-", "─": "-", "━": "-", "│": "|", "…": "...", "±": "+-", "≥": ">="}
PLAIN |= {"≤": "<=", "≈": "~", "α": "alpha", "β": "beta", "σ": "sigma", "é": "e", "²": "^2", "½": "1/2"}
"""Signs that flowlit prints, for terminals without them."""


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("flowlit.plain", _plainly)


class Steady:
    """A text stream that drops what cannot be written, and says so once, if there is a place to say it.

    Args:
        stream: to write to.
        fallback: where a lost stream is reported; None if nowhere.
    """

    def __init__(self, stream: TextIO, fallback: TextIO | Steady | None = None):
        self._stream = stream
        self._fallback = fallback
        self._lost = False
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="flowlit.plain")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text as far as possible; return its length."""
        if not self._lost:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush as far as possible."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        """Lead the rest into nothing, also what is buffered and what processes started from here write."""
        self._lost = True
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        closed = not isinstance(error, OSError) or error.errno == errno.EPIPE
        if not closed and self._fallback is not None:
            self._fallback.write(f"flowlit: the rest of the output is lost ({error}); the command goes on\n")


def read_as_utf8() -> None:
    """Begin this process again if files would be read in another encoding than UTF-8, as all files here are.

    The terminal keeps its own.
    """
    chosen = "utf8" in sys._xoptions  # by this function, too: it begins a process again only once
    if chosen or sys.flags.utf8_mode or locale.getencoding().lower() in ("utf-8", "utf8"):
        return
    terminal = {"PYTHONIOENCODING": getattr(sys.stdout, "encoding", None) or "utf-8"}
    words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]  # python -E reads no variables
    os.execve(sys.executable, words, {**terminal, **os.environ, "PYTHONUTF8": "1"})


def open_descriptors() -> None:
    """Open what the shell has closed (``>&-``), lest a file that is written later takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def steady_output() -> Iterator[None]:
    """Have standard output and error never fail."""
    open_descriptors()
    before = (sys.stdout, sys.stderr)
    # never closed: they may be written to until the process ends
    errors = Steady(sys.stderr or open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    output = Steady(sys.stdout or open(os.devnull, "w", encoding="utf-8"), errors)  # noqa: SIM115
    sys.stdout = output  # type: ignore[assignment]
    sys.stderr = errors  # type: ignore[assignment]
    try:
        yield
    finally:
        output.flush()
        errors.flush()
        if (sys.stdout, sys.stderr) == (output, errors):
            sys.stdout, sys.stderr = before
