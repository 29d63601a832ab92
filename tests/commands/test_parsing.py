"""An error of jsonargparse becomes one line, whatever it is about."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser

from flowlit.commands._line.errors import LENGTH
from flowlit.commands._line.parsing import reworded
from flowlit.types import Solver

FRAMES = [
    'Parser key "a":',
    "Does not validate against any of the Union subtypes",
    "Subtypes: [<class 'int'>, <class 'NoneType'>]",
    "Errors:",
    "- Expected a <class 'int'>",
    "Problem with given class_path 'a.B':",
    "Given value: {",
    "Not a valid subclass of Solver",
    "Option 'x' is not accepted",
]
LINE = st.tuples(st.integers(0, 9), st.sampled_from(FRAMES) | st.text(max_size=40))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(LINE, max_size=12).map(lambda lines: "\n".join(" " * n + text for n, text in lines)))
@example("")
@example("\n\n")
@example("x" * 10_000)
def test_any_message_becomes_one_short_line(message):
    line = reworded(message)
    assert "\n" not in line and len(line) <= LENGTH + 1


@pytest.mark.parametrize(
    ("kind", "value", "line"),
    [
        (int, "many", "x: found many, expected int"),
        (int | None, "many", "x: found many, expected int"),
        (int | bool, "many", "x: found many, expected int or true or false"),
        (list[int], 3, "x: found 3, expected a list"),
        (tuple[int, int], 0.9, "x: found 0.9, expected a list"),
        (dict[str, int], [1], "x: found [1], expected names with values"),
        (
            Solver,
            {"steps": 1},
            "x: found no class_path, expected that of a Solver, and its options under init_args "
            "(flowlit list solvers)",
        ),
        (
            dict[str, Solver] | None,
            {"e": {"class_path": "flowlit.solvers.Euler", "init_args": {"stepps": 1}}},
            "x: 'stepps' is not accepted by flowlit.solvers.Euler; did you mean steps? "
            "it has steps, rho, grid",
        ),
        (
            Solver | None,
            {"class_path": "flowlit.solvers.Euler", "steps": 1},
            "x: steps beside class_path; expected under init_args, one level further in",
        ),
    ],
    ids=str,
)
def test_the_line_that_matters_is_kept(kind, value, line):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--x", type=kind)
    with pytest.raises(ArgumentError) as refused:
        parser.parse_object({"x": value})
    assert reworded(str(refused.value)) == line
