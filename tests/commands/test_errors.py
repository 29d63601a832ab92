"""An error takes one line that says what was wrong and where."""

import errno
import subprocess
import sys

import pytest
import torch
from commandline import REPOSITORY
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from flowlit.commands import main
from flowlit.commands._line import errors
from flowlit.errors import FlowlitError


class Broken(Dataset):
    """A data set whose rows raise an error."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise self.error


def raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error, cause=None):
    raise error from cause


@pytest.mark.parametrize(
    "text", ["a.png is broken; remove it", "two: parts: of it", "two\nlines", "Traceback"]
)
def test_an_error_of_a_worker_is_the_line_that_it_is_without(text):
    loader = DataLoader(Broken(FlowlitError(text)), num_workers=1)
    assert errors.described(raised(lambda: list(loader))) == text


@pytest.mark.parametrize(
    "error", [ValueError("bad row"), KeyError("label"), ZeroDivisionError(), OSError(5, "io")]
)
def test_a_bug_in_a_worker_is_placed(error):
    line = errors.described(raised(lambda: list(DataLoader(Broken(error), num_workers=1))))
    assert line.startswith(type(error).__name__) and "test_errors.py:" in line and "worker process 0" in line
    assert "\n" not in line and "FLOWLIT_TRACEBACK=1" in line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FlowlitError("as it is"), "as it is"),
        (MisconfigurationException("No such\n  backend"), "No such backend"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied"),
        (MemoryError(), "out of memory (no memory is left)"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
            "out of memory (CUDA out of memory)",
        ),
        (RuntimeError("[c10d] Connection closed by peer"), "another process of this run was lost"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a data worker was lost"),
        (RecursionError("maximum recursion depth"), "RecursionError: maximum recursion depth ("),
        (ZeroDivisionError("division"), "ZeroDivisionError: division ("),
        (AssertionError(), "AssertionError ("),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_error_takes_one_line(error, words):
    line = errors.described(raised(lambda: throw(error)))
    assert line.startswith(words) and "\n" not in line
    unexpected = "traceback" in line
    assert not unexpected or "test_errors.py:" in line


def test_what_a_user_can_mend_is_found_below_other_errors():
    below = raised(lambda: throw(ValueError("wrapped"), FlowlitError("the reason")))
    assert errors.described(below) == "the reason"
    circle = ValueError("a")
    circle.__context__ = KeyError("b")
    circle.__context__.__context__ = circle
    assert errors.described(circle).startswith("ValueError: a (")


def test_a_long_message_is_cut():
    assert len(errors.described(ValueError("word " * 10_000))) < 800


def test_the_place_is_the_own_file_and_the_deepest_one():
    line = errors.described(raised(lambda: torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 3, 8, 8))))
    assert "torch/nn/modules/conv.py:" in line and ", called from tests/commands/test_errors.py:" in line


def test_a_traceback_comes_back_when_asked_for(monkeypatch, capsys):
    assert main(["pipeline", "-c", "nowhere.yaml"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("FLOWLIT_TRACEBACK", "1")
    assert main(["pipeline", "-c", "nowhere.yaml"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.splitlines()[-1].startswith("flowlit: error: recipe nowhere.yaml")


def test_an_interrupt_ends_with_its_code():
    code = (
        "import flowlit.commands as c\n"
        "def stop(words): raise KeyboardInterrupt\n"
        "c.dispatch = stop\n"
        "raise SystemExit(c.main(['fit']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 130 and done.stderr == b""
