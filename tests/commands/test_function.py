"""A plain function on the command line: what its signature and docstring become."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from flowlit.commands import _function
from flowlit.errors import FlowlitError

calls = []


def brew(
    beans: list[Path],
    *,
    grams: float,
    cups: int = 2,
    kind: Literal["filter", "espresso"] = "filter",
    between: tuple[float, float] = (90.0, 96.0),
    no_milk: bool = False,
) -> list[str]:
    """Brew coffee.

    Not tea.

    Args:
        beans: bags of them
        grams: for a cup
        cups: how many
        kind: of coffee
        between: degrees
        no_milk: leave it out
    """
    calls.append((beans, grams, cups, kind, tuple(between), no_milk))
    return ["one", "two"]


def stages(*others: str, config: str, dry_run: bool = False):
    """Yield the words."""
    yield f"{config} {dry_run}"
    yield " ".join(others)


def run(target, *words):
    return _function.run(target, list(words), "flowlit brew")


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def test_words_become_arguments_and_lines_are_printed(capsys):
    assert (
        run(brew, "a", "b", "--grams", "7.5", "--cups=3", "--kind", "espresso", "--between", "80", "85") == 0
    )
    assert calls == [([Path("a"), Path("b")], 7.5, 3, "espresso", (80.0, 85.0), False)]
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.parametrize(
    "words", [["--no_milk"], ["--no-milk"], ["--no_milk", "true"], ["--no-milk=true"]], ids=str
)
def test_a_flag_needs_no_value(words):
    assert run(brew, *words, "a", "--grams", "1") == 0
    assert calls == [([Path("a")], 1.0, 2, "filter", (90.0, 96.0), True)]
    assert run(brew, "a", "--grams", "1", "--no_milk", "false") == 0 and not calls[1][-1]


def test_a_yaml_gives_options_and_the_command_line_wins(tmp_path):
    path = tmp_path / "brew.yaml"
    path.write_text("vars: {strong: 9}\ngrams: ${vars.strong}\ncups: 4\n")
    assert run(brew, "b", "-c", str(path), "--cups", "1") == 0
    assert run(brew, "b", f"--config={path}", "--vars.strong", "5") == 0
    assert [call[:3] for call in calls] == [([Path("b")], 9.0, 1), ([Path("b")], 5.0, 4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grams", "1"], "required: beans"),
        (["a"], "required: --grams"),
        (["a", "--grams", "many"], "argument --grams: "),
        (["a", "--grams", "1", "--kind", "tea"], "argument --kind: "),
        (["a", "--grams", "1", "--between", "1"], "argument --between: "),
        (["a", "--grams", "1", "--cup", "1"], "unrecognized arguments: --cup"),
    ],
    ids=str,
)
def test_errors_take_two_lines(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        run(brew, *words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and not calls
    assert (
        error.startswith("flowlit brew: error: ")
        and message in error
        and error.endswith("see flowlit brew --help\n")
    )


def test_help_has_the_docstring_and_every_parameter(capsys):
    with pytest.raises(SystemExit) as end:
        run(brew, "--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "Brew coffee." in shown and "Not tea." in shown
    for text in (
        "bags of them",
        "for a cup",
        "how many",
        "of coffee",
        "degrees",
        "leave it out",
        "default: 2",
    ):
        assert text in shown


def collect(*, files: list[str] = [], low: float = 0.0) -> str:
    """Collect files."""
    return f"{files} {low}"


def test_options_with_several_values_and_negative_numbers(capsys):
    assert run(collect, "--files", "a", "b", "--low", "-1.5") == 0
    assert capsys.readouterr().out == "['a', 'b'] -1.5\n"
    with pytest.raises(FlowlitError, match="--files is given twice"):
        run(collect, "--files", "a", "--files", "b")


def test_words_that_are_no_options_are_passed_on(capsys):
    assert run(stages, "--a.x", "1", "-c", "r.yaml", "--b.y=2", "--dry-run", "c") == 0
    assert capsys.readouterr().out == "r.yaml True\n--a.x 1 --b.y=2 c\n"


def test_one_of_several_functions(capsys):
    several = {"brew": brew, "stages": stages}
    assert run(several, "brew", "a", "--grams", "1") == 0 and len(calls) == 1
    assert run(several, "--help") == 0
    assert "\n    stages    Yield the words.\n" in capsys.readouterr().out
    assert run(several) == run(several, "tea") == 2
    assert "flowlit brew: error: expected one of brew, stages" in capsys.readouterr().err
