"""Processes that end with the process that started them, and receive its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from types import FrameType

from ..._engine.signals import SIGNALS
from ...errors import Stopped
from .._yaml.trust import UNTRUSTED

PARENT = "FLOWLIT_PARENT"
"""Set by a pipeline for its stages: the process whose end they must not survive."""


def environment(trust: bool) -> dict[str, str]:
    """Return the variables of a process that ends with this one, and is restricted unless it is trusted."""
    variables = {**os.environ, PARENT: str(os.getpid())}
    return variables if trust else {**variables, UNTRUSTED: "1"}


def leave_with_parent() -> None:
    """End this process soon after the pipeline, or rank 0, that started it, lest a second one meet it in the
    same folder.
    """
    started_by_rank_0 = os.environ.get("LOCAL_RANK", "0") != "0"
    parent = int(os.environ.pop(PARENT, os.getppid() if started_by_rank_0 else 0))
    if not parent:
        return
    os.environ[PARENT] = str(os.getpid())  # further ranks start from here, and must not outlive this one

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_child(words: Sequence[str], env: dict[str, str]) -> int:
    """Run a process in a group of its own, and pass on the signals that would end this one; its exit code.

    Raises:
        Stopped: when it has ended, if there was such a signal.
    """
    child = subprocess.Popen(words, env=env, process_group=0)
    heard = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        heard.append(signum)
        child.send_signal(signum)

    if threading.current_thread() is not threading.main_thread():
        return child.wait()
    before = {signum: signal.signal(signum, pass_on) for signum in SIGNALS}
    try:
        code = child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
    if heard:
        raise Stopped(heard[0])
    return code
