"""The package keeps the rules of style that a program can check."""

from pathlib import Path

import pytest
from commandline import REPOSITORY
from style import findings

PACKAGE = REPOSITORY / "flowlit"


@pytest.mark.parametrize("place", sorted(PACKAGE.iterdir()), ids=lambda path: path.name)
def test_rules_of_style(place):
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place] * (place.suffix == ".py")
    assert [finding for file in files for finding in findings(file)] == []


BROKEN = {
    'def f(x: Tensor) -> Tensor:\n    """Return x (B, C, H, W)."""\n': "",
    'def f(x: Tensor) -> Tensor:\n    """Return x."""\n': "states no shape",
    'def f(x: Tensor) -> Tensor:\n    """Return x (with care, slowly), and f()."""\n': "states no shape",
    'def f(x: Tensor) -> Tensor:\n    """Return x, (), of parts (num, …)."""\n': "",
    'def _f(x: Tensor) -> Tensor:\n    """Return x."""\n': "",
    'def f() -> None:\n    """Whether it rains."""\n': "begins with 'Whether'",
    'def f() -> None:\n    """Return what it was told."""\n': "personifies: 'told'",
    "a = 1  # whoever asks": "comment personifies",
    "a, b = 1, 2": "several assignments",
    "a, b = f()": "",
    "found = 1": "does not say what it holds",
    "if a := f():\n    pass": "",
    "if (a := f()) is None:\n    pass": "walrus",
    "x = (\n    a\n    if b\n    else c\n)": "conditional expression",
    "x = a if b else c": "",
    "def f():\n" + "    x = 1\n" * 50: "function f has 51 lines",
    "class F:\n" + "    x = 1\n" * 150: "class F has 151 lines",
    "x = 1\n" * 251: "251 lines",
}


@pytest.mark.parametrize(("source", "expected"), BROKEN.items(), ids=range(len(BROKEN)))
def test_the_checker_finds_what_breaks_a_rule(tmp_path: Path, source, expected):
    path = tmp_path / "file.py"
    path.write_text(source)
    texts = list(findings(path))
    assert len(texts) == bool(expected)
    assert expected in "".join(texts)


def test_nothing_else_stands_at_the_top():
    packages = (
        "ranges paths data networks solvers objectives schedules couplings metrics generators modules "
        "callbacks commands"
    )
    files = "types.py errors.py frozen.py rng.py __init__.py __main__.py _version.py py.typed"
    expected = {*packages.split(), *files.split(), "_engine", "_support"}
    assert {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"} == expected
