"""Processes that end with the process that started them: stages, which receive its signals, and modules that
answer in a line.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from ..._engine.signals import SIGNALS
from ...errors import FlowlitError, Stopped
from .._yaml.trust import UNTRUSTED

PARENT = "FLOWLIT_PARENT"
"""Set by a pipeline for its stages: the process whose end they must not survive."""

ANSWER = "flowlit-answer:"
"""Begins the line that a module answers with."""


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
        print("flowlit: the pipeline is stopped; the same command goes on with it", file=sys.stderr)
        raise Stopped(heard[0])
    return code


def answer_of(module: str, words: Sequence[str], trust: bool, failed: str, text: str | None = None) -> Any:
    """Run a module in a process of its own, and return what it gives to ``answer``.

    Args:
        module: its name.
        words: of its command line.
        trust: classes of any package may be built.
        failed: what is the case if there is no answer, in words.
        text: for its standard input.

    Raises:
        FlowlitError: if there is no answer; with the reason that the process gave.
    """
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, input=text, env=environment(trust), text=True, capture_output=True)
    answer = next((line for line in done.stdout.splitlines() if line.startswith(ANSWER)), None)
    if done.returncode or answer is None:
        raise FlowlitError(f"{failed}: {reason_of(done.stderr) or f'exit code {done.returncode}'}")
    return json.loads(answer.removeprefix(ANSWER))


def answer(content: Any) -> None:
    """Print a line that ``answer_of`` returns in the process that started this one."""
    print(ANSWER + json.dumps(content), flush=True)


def reason_of(output: str) -> str:
    """Return the last error of flowlit in what a process has printed; the last line, if there is none.

    >>> reason_of("usage: …\\nflowlit fit: error: no such file\\n")
    'no such file'
    """
    lines = output.strip().splitlines()
    errors = [line.partition("error: ")[2] for line in lines if re.match(r"flowlit[\w ]*: error: ", line)]
    return [*lines[-1:], *errors[-1:]][-1] if lines else ""
