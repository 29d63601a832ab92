"""Work on every file of a set: in threads, with a bar, and what was found is kept until a file changes.

What took long is kept in the user's cache, so that another process need not do it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from .._support.files import write_atomically
from .._support.progress import Bar
from .._support.schema import Format
from ..errors import FlowlitError

SLOW = 2.0
"""Seconds from which on work shows a bar, and is recorded."""

_BLOCK = 256

R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)


def each(count: int, work: Callable[[int], R], what: str) -> Iterator[R]:
    """Yield ``work(0)``, …, ``work(count - 1)``, which threads do, in order."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bar = Bar(total=count, desc=what, unit=" images", leave=False, delay=SLOW)
    with ThreadPoolExecutor(threads) as pool, bar:
        for start in range(0, count, _BLOCK):
            block = range(start, min(start + _BLOCK, count))
            yield from pool.map(work, block)
            bar.update(len(block))


class Kept(Generic[S]):
    """Records of sets of files, in memory and in the user's cache.

    Args:
        form: of a record.
        ending: of its file's name.
    """

    def __init__(self, form: Format[S], ending: str):
        self.form = form
        self.ending = ending
        self.known: dict[str, S] = {}

    def get(self, key: str, find: Callable[[], S]) -> S:
        """Return the record under a key, which changes if a file does; find it if there is none."""
        record = self.known.get(key) or self._read(key)
        if record is None:
            start = time.perf_counter()
            record = find()
            if time.perf_counter() - start >= SLOW:
                self._write(key, record)
        self.known[key] = record
        return record

    def _path(self, key: str) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache, "flowlit", "images", key + self.ending)

    def _read(self, key: str) -> S | None:
        try:
            path = self._path(key)
            return self.form.check(self.form.read(path), path)
        except (FlowlitError, OSError, RuntimeError):  # missing, damaged, or there is no home: done again
            return None

    def _write(self, key: str, record: S) -> None:
        with suppress(FlowlitError, OSError, RuntimeError):  # a place that cannot be written only costs time
            content: Any = msgspec.to_builtins(record)
            write_atomically(self._path(key), json.dumps(content).encode())
