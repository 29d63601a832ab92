"""Processes of their own, for what must begin afresh."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def output_of(*words: str, **environment: str) -> str:
    """What a Python process with these arguments prints, run in the repository's root.

    Raises:
        RuntimeError: with all that it said, if it fails.
    """
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout
