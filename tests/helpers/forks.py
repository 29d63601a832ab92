"""Forks of a process that has done nothing but import: fast to start, and clean, whatever tests have run
before.

(A fork of the test process itself could not train: PyTorch refuses to, once backward passes have had threads
there.)
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])


def _run(
    function: Callable[..., int | None], arguments: tuple[Any, ...], folder: str, environment: dict[str, str]
) -> None:
    code = 99
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests on several cores ignore it
    try:
        code = function(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _flowlit(*words: object) -> int:
    from commandline import in_process

    outcome = in_process(*words)
    print(outcome.err)
    return outcome.code


def _started(function: Callable[..., int | None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*paths, before or ""]
    )  # for the first start of the process that forks
    try:
        child = FORKS.Process(
            target=_run, args=(function, arguments, os.getcwd(), {**os.environ, "PYTHONPATH": before or ""})
        )
        child.start()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return child


def _call(file: str, name: str, *arguments: Any) -> None:
    """Call a function of a test file, which is no module that another process could import."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[Path(file).stem] = module
    spec.loader.exec_module(module)
    getattr(module, name)(*arguments)


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function of a module so; it must return. For runs with ``ddp_fork`` that train."""
    child = _started(_call, function.__code__.co_filename, function.__name__, *arguments)
    child.join()
    assert child.exitcode == 0, "see its traceback in the captured output"


def dead(function: Callable[..., None], *arguments: Any) -> int | None:
    """Call a function of a module so, which may be killed; its exit code, negative for the signal."""
    child = _started(_call, function.__code__.co_filename, function.__name__, *arguments)
    child.join()
    return child.exitcode


def forked(*words: object) -> multiprocessing.process.BaseProcess:
    """Start flowlit in such a fork."""
    return _started(_flowlit, *words)


def left(*words: object) -> int:
    """Run flowlit so; its exit code, negative for the signal that ended it."""
    child = forked(*words)
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def killed(*words: object) -> None:
    """Run flowlit so; it must die of SIGKILL."""
    assert left(*words) == -signal.SIGKILL
