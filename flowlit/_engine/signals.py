"""Signals that stop a process where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class SignalHandler:
    """Store the first signal as ``received``; the second one ends the process at once.

    Works only in the process, and the thread, that created it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def open(self) -> None:
        """Take the signals over from other handlers; also again, if those came back in between."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in SIGNALS:
            before = signal.signal(signum, self._receive)
            self._before.setdefault(signum, before)

    def close(self) -> None:
        """Give the signals back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    @staticmethod
    def stop_listening() -> None:
        """Let SIGTERM end the process; Lightning would only take a note of it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data worker, which ends with us
        if self.received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.received = signum
        if os.environ.get("LOCAL_RANK", "0") == "0":
            name = signal.Signals(signum).name
            plan = (
                "saving after this step (a validation needs none), then stopping; once more to stop at once"
            )
            os.write(2, f"\nflowlit: {name}: {plan}\n".encode())
