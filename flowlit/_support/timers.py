"""Time that a device spends on a piece of work, measured without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

Mark = float | torch.cuda.Event
"""A moment of the clock, or of a stream on a GPU."""


class DeviceTimer:
    """Mean seconds of a repeated piece of work on its device; only ``read`` waits for the device."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._times = 0
        self._marks: deque[tuple[Mark, Mark]] = deque()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Measure the work inside."""
        begin = now(device)
        yield
        self._marks.append((begin, now(device)))
        self._times += 1
        self._add_up(wait=False)  # or events would pile up where ``read`` is never called

    def read(self) -> float:
        """Return the mean seconds a time since the last reading; 0 if there was none."""
        self._add_up(wait=True)
        mean = self._seconds / max(1, self._times)
        self._seconds = 0.0
        self._times = 0
        return mean

    def _add_up(self, wait: bool) -> None:
        """Add finished measurements, or wait for all. Another thread may do so at the same time."""
        with suppress(IndexError):
            while wait or happened(self._marks[0][1]):
                begin, end = self._marks.popleft()
                wait_for(end)
                self._seconds += between(begin, end)


class StepTimer:
    """Seconds of consecutive parts of a device's work: no time is lost between two, and none counted twice.

    On a GPU the borders are events in the current stream, and a part lasts as long as that stream takes for
    it, waiting included. Only ``read`` waits for them.
    """

    def __init__(self) -> None:
        self.part: str | None = None
        """Name of the part that is going on; None before ``begin``."""
        self._seconds: dict[str, float] = {}
        self._marks: deque[tuple[str, Mark]] = deque()
        self._device = torch.device("cpu")

    def begin(self, part: str, device: torch.device) -> None:
        """Start anew, with this part."""
        self._seconds = {}
        self._marks = deque()
        self._device = device
        self.mark(part)

    def mark(self, part: str) -> None:
        """End the part that is going on, and begin another one (or the same again)."""
        self.part = part
        self._marks.append((part, now(self._device)))
        self._add_up()

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Count the work inside as a part of its own; the one that it interrupts goes on afterwards.

        Does nothing before ``begin``.
        """
        before = self.part
        if before is None:
            yield
            return
        self.mark(part)
        yield
        self.mark(before)

    def read(self) -> dict[str, float]:
        """Wait for the device; return the seconds of each part from the last reading to the last mark."""
        if self._marks:
            wait_for(self._marks[-1][1])
        self._add_up()
        seconds = self._seconds
        self._seconds = {}
        return seconds

    def _add_up(self) -> None:
        """Add the parts whose ends have happened, so that few events are kept."""
        while len(self._marks) > 1 and happened(self._marks[1][1]):
            part, start = self._marks.popleft()
            self._seconds[part] = self._seconds.get(part, 0.0) + between(start, self._marks[0][1])


def now(device: torch.device) -> Mark:
    """Mark this moment, on a GPU in the current stream."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def happened(mark: Mark) -> bool:
    """Return whether the device has reached a mark; one of the clock is always reached."""
    return True if isinstance(mark, float) else mark.query()


def wait_for(mark: Mark) -> None:
    """Wait until the device has reached a mark."""
    if not isinstance(mark, float):
        mark.synchronize()


def between(start: Any, end: Any) -> float:
    """Return the seconds between two marks of one kind."""
    return end - start if isinstance(end, float) else start.elapsed_time(end) / 1000
