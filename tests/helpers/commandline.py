"""flowlit's command line in the process of a test."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

REPOSITORY = Path(__file__).parents[2]
RECORDS = tempfile.TemporaryDirectory(prefix="flowlit_parsed_")
"""In place of the user's records of configurations that were parsed: those of this process."""


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
        starts = [line for line in self.err.splitlines() if re.match(r"(flowlit[\w ]*: )?error: ", line)]
        assert len(starts) == 1, self.err
        return self.err[self.err.index(starts[0]) :]


def as_words(words: tuple[object, ...]) -> list[str]:
    return [str(word) for word in words]


def parsed_here(module: str, words: object, trust: bool, failed: str, text: str) -> Any:
    """Parse the configurations of a pipeline's stages in this process, as its child would.

    The child has to import torch first. Tests that start flowlit in a process of its own have a real one.
    """
    from flowlit.commands._yaml.trust import UNTRUSTED
    from flowlit.commands.pipeline.check import parse

    with mock.patch.dict(os.environ, {} if trust else {UNTRUSTED: "1"}):
        errors = {name: parse(words) for name, words in json.loads(text).items()}
    return {name: error for name, error in errors.items() if error}


def in_process(*words: object) -> Outcome:
    """Run ``flowlit …`` in this process; what it returned and printed."""
    if words[:1] == ("pipeline",):
        from flowlit.commands.pipeline import check

        place = check._record_path
        kept = {"_record_path": lambda *facts: Path(RECORDS.name, place(*facts).name)}
        with mock.patch.multiple(check, answer_of=parsed_here, **kept):
            return _in_process(*words)
    return _in_process(*words)


def _in_process(*words: object) -> Outcome:
    from flowlit.commands import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    told = logging.StreamHandler(err)
    log = logging.getLogger("lightning.pytorch")
    log.addHandler(told)
    sys.argv = ["flowlit"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            code = main(as_words(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = argv
        log.removeHandler(told)
    return Outcome(code, out.getvalue(), err.getvalue())
