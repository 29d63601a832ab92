"""Be told to stop, and stop where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class SignalHandler:
    """Remember the first signal; the second ends the process at once. Only in the process, and the thread,
    that made it.
    """

    def __init__(self) -> None:
        self.heard = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def open(self) -> None:
        """Take the signals over from whoever had them; may be called again, if somebody took them in
        between.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in SIGNALS:
            before = signal.signal(signum, self._hear)
            self._before.setdefault(signum, before)

    def close(self) -> None:
        """Give them back."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    @staticmethod
    def stop_listening() -> None:
        """Let SIGTERM end the process; Lightning would only remember it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data worker, which ends with us
        if self.heard:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.heard = signum
        if os.environ.get("LOCAL_RANK", "0") == "0":
            name = signal.Signals(signum).name
            told = (
                f"{name}: saving after this step (a validation needs none), then stopping; once more to "
                "stop at once"
            )
            os.write(2, f"\nflowlit: {told}\n".encode())
