"""Shared fixtures: flowlit in this process (fast) and in one of its own (honest)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are fastest so, here and in every process that a test starts

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
torch.set_num_threads(1)


@dataclass
class Outcome:
    """What a flowlit command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one message for the user; fails if there is a traceback, or not exactly one message."""
        assert self.code in (1, 2), f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err, self.err
        starts = [line for line in self.err.splitlines() if line.startswith(("flowlit: error: ", "error: "))]
        assert len(starts) == 1, self.err
        return self.err[self.err.index(starts[0]) :]


def _words(words: tuple[object, ...]) -> list[str]:
    return [str(word) for word in words]


@pytest.fixture
def flowlit():
    """Run ``flowlit …`` in a process of its own; the result as ``Outcome``. Takes some seconds of imports."""

    def run(*words: object, cwd: Path | str = REPOSITORY, timeout: float = 240, **env: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "flowlit", *_words(words)],
            capture_output=True,
            text=True,
            cwd=cwd,
            timeout=timeout,
            env={**os.environ, **env},
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def cli(monkeypatch):
    """Run ``flowlit …`` in this process, from the repository's root; the result as ``Outcome``."""
    monkeypatch.chdir(REPOSITORY)
    return in_process


def in_process(*words: object) -> Outcome:
    from flowlit.cli import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    told = logging.StreamHandler(err)
    log = logging.getLogger("lightning.pytorch")
    log.addHandler(told)
    sys.argv = ["flowlit"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            code = main(_words(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = argv
        log.removeHandler(told)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture
def loud_afterwards():
    """Benchmarks silence Lightning for good; other tests listen to it."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    yield
    log.setLevel(level)
