"""Make the next pair while a network trains on this one, and know what that takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


class DeviceTimer:
    """Seconds spent in a piece of work, on the device that does it; reading it waits for that device once."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._times = 0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Measure what happens inside."""
        if device.type == "cuda":
            begin = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            self._add_up(wait=False)  # nobody may ever read it
        else:
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
        self._times += 1

    def read(self) -> float:
        """Mean seconds a time since it was last read; 0 if there was none."""
        self._add_up(wait=True)
        mean = self._seconds / max(1, self._times)
        self._seconds = 0.0
        self._times = 0
        return mean

    def _add_up(self, wait: bool) -> None:
        """Add what is over, or all. Another thread may do so at the same time."""
        with suppress(IndexError):
            while wait or self._events[0][1].query():
                begin, end = self._events.popleft()
                end.synchronize()
                self._seconds += begin.elapsed_time(end) / 1000


class StepTimer:
    """Seconds of each part of what a device does, one after the other: no time is lost between two parts, and
    none counted twice.

    On a GPU the borders are events in the current stream, and a part lasts as long as that stream takes for
    it, waiting included. Nobody waits for them but ``read``.
    """

    def __init__(self) -> None:
        self.part: str | None = None
        """What is going on now; None before ``begin``."""
        self._seconds: dict[str, float] = {}
        self._marks: deque[tuple[str, float | torch.cuda.Event]] = deque()
        self._on_gpu = False

    def begin(self, part: str, device: torch.device) -> None:
        """Start anew, with this part."""
        self._seconds = {}
        self._marks = deque()
        self._on_gpu = device.type == "cuda"
        self.part = part
        self.mark(part)

    def mark(self, part: str) -> None:
        """End the part that is going on, and begin another one (or the same again)."""
        now: float | torch.cuda.Event = time.perf_counter()
        if self._on_gpu:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        self.part = part
        self._marks.append((part, now))
        self._add_up()

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """What happens inside is a part of its own; the one that it interrupts goes on afterwards. Nothing
        before ``begin``.
        """
        if (before := self.part) is None:
            yield
            return
        self.mark(part)
        yield
        self.mark(before)

    def read(self) -> dict[str, float]:
        """Seconds of each part since it was last read, up to the last mark; waits for the device to have got
        there.
        """
        if self._marks and isinstance(last := self._marks[-1][1], torch.cuda.Event):
            last.synchronize()
        self._add_up()
        seconds = self._seconds
        self._seconds = {}
        return seconds

    def _add_up(self) -> None:
        """Add the parts whose ends have happened, so that few events are kept."""
        while len(self._marks) > 1 and happened(end := self._marks[1][1]):
            part, start = self._marks.popleft()
            self._seconds[part] = self._seconds.get(part, 0.0) + between(start, end)


def happened(mark: float | torch.cuda.Event) -> bool:
    """Whether a moment is over; one of the clock always is."""
    return True if isinstance(mark, float) else mark.query()


def between(start: Any, end: Any) -> float:
    """Seconds between two moments of one kind."""
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1000
