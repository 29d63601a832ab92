"""Shared fixtures: flowlit in this process (fast) and in one of its own (honest)."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny networks are fastest so, also in processes that a test starts

import pytest
import torch
from commandline import REPOSITORY, Outcome, as_words, in_process

torch.set_num_threads(1)
collect_ignore = ["golden"]


@pytest.fixture
def flowlit():
    """Run ``flowlit …`` in a process of its own; the result as ``Outcome``. Takes some seconds of imports."""

    def run(*words: object, cwd: Path | str = REPOSITORY, timeout: float = 240, **env: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "flowlit", *as_words(words)],
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


@pytest.fixture
def loud_afterwards():
    """Benchmarks silence Lightning for good; other tests listen to it."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    yield
    log.setLevel(level)


def pytest_collection_modifyitems(items):
    """Refuse tests whose name has an address: processes that share the tests would not agree on it."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"give these parameters ids: {unstable[:3]}")
