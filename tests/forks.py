"""flowlit in a fork of a process that has done nothing but import: fast to start, and clean, whatever tests have run before.

(A fork of the test process itself could not train: PyTorch refuses to, once backward passes have had threads there.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])


def _run(words: tuple[object, ...], folder: str, environment: dict[str, str]) -> None:
    from conftest import in_process

    code = 99
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests on several cores ignore it
    try:
        outcome = in_process(*words)
        code = outcome.code
        print(outcome.err)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def forked(*words: object) -> multiprocessing.process.BaseProcess:
    """Start flowlit in such a fork."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, before or ""])  # for the first start of the process that forks
    try:
        child = FORKS.Process(target=_run, args=(words, os.getcwd(), {**os.environ, "PYTHONPATH": before or ""}))
        child.start()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return child


def left(*words: object) -> int:
    """Run flowlit so; its exit code, negative for the signal that ended it."""
    child = forked(*words)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def killed(*words: object) -> None:
    """Run flowlit so; it must die of SIGKILL."""
    assert left(*words) == -signal.SIGKILL
