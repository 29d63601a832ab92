"""The examples run as they stand, and do what their comments say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ONE_FILE = Path(__file__).parents[1] / "examples" / "one_file.py"


@pytest.fixture(scope="module")
def distances():
    spec = importlib.util.spec_from_file_location("one_file", ONE_FILE)
    one_file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(one_file)
    return one_file.main()


def test_one_step_after_reflow_is_nearly_as_good_as_fifty_before(distances):
    before, many = distances["flow, 1 step"], distances["flow, 50 steps"]
    assert distances["reflow, 1 step"] < 0.05 * before and many < 0.05 * before
    assert distances["distilled, 1 step"] < distances["reflow, 1 step"] < 2 * many
    assert abs(distances["other data"]) < 0.2 * many


def test_the_numbers_in_the_comments_are_those_of_the_run(distances):
    commented = re.findall(r"^#   (.+?)  +(\d\.\d{4})$", ONE_FILE.read_text(), re.M)
    assert [name for name, _ in commented] == list(distances)
    for name, number in commented:
        assert distances[name] == pytest.approx(float(number), rel=0.3, abs=0.003)


def test_it_is_one_short_file_without_a_framework():
    text = ONE_FILE.read_text()
    modules = {name.split(".")[0] for name in re.findall(r"^(?:from|import) ([\w.]+)", text, re.M)}
    assert modules == {"__future__", "copy", "math", "collections", "torch"}
    assert len(text.splitlines()) <= 120
