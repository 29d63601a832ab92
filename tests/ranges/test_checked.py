"""Arguments are compared with their annotations, in any class that has the base, and nowhere else."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction as Rational
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.objectives.times import Fixed
from flowlit.ranges import (
    Checked,
    Float,
    Int,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seed,
    check_of,
    checked,
)
from flowlit.solvers import Euler, Heun
from flowlit.types import Schedule, VelocityField


@dataclass
class Blur(Checked):
    width: PositiveFloat
    passes: PositiveInt = 1
    weights: Sequence[NonNegativeFloat] | None = None
    mode: Literal["box", "gauss"] = "box"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.notes.append("made")


@dataclass
class Sharp(Blur):
    share: Probability = 0.5


@dataclass(frozen=True)
class Fixture(Checked):
    num: PositiveInt


class Layer(Checked, nn.Module):
    def __init__(self, width: PositiveInt, scale: Float = 1.0, flag: bool = False, other: Any = None):
        super().__init__()
        self.width = width
        self.scale = scale
        self.flag = flag


class Deep(Layer):
    def __init__(self, depth: PositiveInt = 1, **options: Any):
        super().__init__(**options)
        self.depth = depth


class Inherits(Deep):
    """Has no constructor of its own."""


@dataclass
class Sawtooth(Schedule):
    """A schedule as another project writes it."""

    period: PositiveInt
    height: float = math.inf  # not a range: left alone

    def __call__(self, step: int) -> float:
        return step % self.period


NUMBERS = [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
@pytest.mark.parametrize("kind", [Layer, Inherits])
def test_any_whole_number_becomes_an_int(kind, value):
    assert type(kind(width=value).width) is int


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Rational(1, 2)], ids=repr)
def test_any_finite_number_becomes_a_float(value):
    assert type(Blur(value).width) is float


def test_a_frozen_dataclass_has_plain_numbers_too():
    assert type(Fixture(np.int64(2)).num) is int
    with pytest.raises(FlowlitError, match="Fixture: num is 0"):
        Fixture(0)


def test_an_int_stays_an_int_so_that_descriptions_stay_equal():
    assert repr(Blur(1)) == "Blur(width=1, passes=1, weights=None, mode='box', notes=['made'])"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(0), "Blur: width is 0; expected a finite number > 0"),
        (lambda: Blur(1, passes=2.0), "Blur: passes is 2.0; expected a whole number > 0"),
        (
            lambda: Blur(1, weights=[-1]),
            "Blur: weights is [-1]; expected several, each a finite number >= 0 or none",
        ),
        (lambda: Blur(1, mode="blur"), "Blur: mode is 'blur'; expected 'box' or 'gauss'"),
        (lambda: Sharp(1, share=2), "Sharp: share is 2; expected a finite number in [0, 1]"),
        (lambda: Sharp(-1), "Sharp: width is -1; expected a finite number > 0"),
        (lambda: Layer(True), "Layer: width is True; expected a whole number > 0"),
        (lambda: Layer(1, flag=1), "Layer: flag is 1; expected true or false"),
        (lambda: Deep(0, width=1), "Deep: depth is 0; expected a whole number > 0"),
        (lambda: Deep(1, width=0), "Deep: width is 0; expected a whole number > 0"),
        (lambda: Inherits(width=1, scale=math.nan), "Inherits: scale is nan; expected a finite number"),
        (lambda: Sawtooth(0), "Sawtooth: period is 0; expected a whole number > 0"),
        (lambda: replace(Blur(1), width=-1), "Blur: width is -1; expected a finite number > 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_names_class_argument_value_and_range(make, message):
    with pytest.raises(FlowlitError) as caught:
        make()
    assert str(caught.value) == message


def test_checks_come_before_what_a_class_does_itself():
    notes: list[str] = []
    with pytest.raises(FlowlitError):
        Blur(0, notes=notes)
    assert notes == []


def test_other_annotations_are_left_alone():
    assert Sawtooth(3, math.nan).period == 3 and Layer(1, other="anything").width == 1


def test_copies_pickles_and_signatures_are_as_without():
    thing = Sharp(2.0, weights=(1, 2))
    assert pickle.loads(pickle.dumps(thing)) == copy.deepcopy(thing) == thing
    assert thing.weights == (1, 2)
    assert list(inspect.signature(Deep).parameters) == ["depth", "options"]
    assert Deep.__init__.__qualname__ == "Deep.__init__"
    assert copy.deepcopy(Inherits(width=2)).width == 2


def test_a_mistyped_argument_is_pythons_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        Layer(widht=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        Layer()


def test_a_function_is_checked_too():
    @checked
    def repeat(text: str, times: PositiveInt = 1, *others: str, seed: Seed = 0) -> str:
        return text * times

    assert repeat("a", np.int64(2), "b", "c", seed=3) == "aa"
    with pytest.raises(FlowlitError, match="repeat: times is 0"):
        repeat("a", 0)
    with pytest.raises(FlowlitError, match=r"repeat: seed is -1; expected a whole number in \[0, 2\*\*64\)"):
        repeat("a", seed=-1)


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (list[PositiveInt], [[1], (2,), range(1, 3), np.array([1, 2])], [[0], [1.5], "12", 3, {1: 2}, None]),
        (tuple[Int, Float], [(1, 0.5), [0, 1]], [(1,), (1, 2, 3), (0.5, 1), (1, math.nan)]),
        (dict[str, Float], [{"a": 1.0}, {}], [{"a": math.inf}, [1.0], None]),
        (Mapping[Name, Any], [{"a-1": len}], [{"a/b": 1}, {"": 1}, {3: 1}]),
        (PositiveInt | str, [1, "all"], [0, None]),
        (Literal[2, 3], [2, np.int64(3)], [1, True, "2", None, 2.5]),
        (PositiveInt | None, [1, None], [0, "none"]),
        (PositiveInt | PositiveFloat, [1, 0.5], [0, -0.5, "1", None]),
        (str, ["a", Path("a")], [None, 3, b"a", ["a"]]),
        (str | list[str], ["a", Path("a"), ["a", Path("b")]], [3, [3], {"a"}, None]),
        (list[PositiveInt], [[1]], [{1}, frozenset([1])]),
        (nn.Module | None, [nn.Identity(), None], ["x", nn.Identity, lambda x: x]),
        (Schedule, [Sawtooth(1), lambda step: 0.5], [Sawtooth, 3, None, "x"]),
        (dict[str, Schedule], [{"a": Sawtooth(1)}], [3, {"a": 3}, [Sawtooth(1)]]),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value),
)
def test_containers(annotation, good, bad):
    check = check_of(annotation)
    for value in good:
        check("x", value)
    for value in bad:
        with pytest.raises(FlowlitError, match=r"^x is "):
            check("x", value)


@pytest.mark.parametrize(
    "annotation",
    [int, Any, list[int], dict | None, Callable[[int], float], VelocityField, int | Sequence[int]],
)
def test_what_has_no_range_has_no_check(annotation):
    assert check_of(annotation) is None


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=4),
    st.lists(st.integers(), max_size=2), st.complex_numbers(), st.fractions(), st.decimals(),
)  # fmt: skip


@settings(derandomize=True, max_examples=400, deadline=None)
@given(value=ANYTHING)
def test_anything_is_a_number_in_the_range_or_one_error(value):
    for kind, holds in ((PositiveInt, lambda v: v > 0), (Probability, lambda v: 0 <= v <= 1)):
        try:
            converted = check_of(kind)("x", value)
        except FlowlitError:
            assert not (type(value) is int and 0 < value < 2**63) or kind is Probability
        else:
            assert holds(converted) and type(converted) in (int, float) and converted == float(value)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(value=st.one_of(st.integers(-(2**66), 2**66), st.floats(), st.booleans()))
def test_the_command_line_and_python_hold_to_the_same_range(value):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--count", type=PositiveInt | None)
    parser.add_argument("--share", type=Probability)
    for name, kind in (("count", PositiveInt), ("share", Probability)):
        try:
            expected = check_of(kind)("x", value)
        except FlowlitError:
            with pytest.raises(jsonargparse.ArgumentError):
                parser.parse_args([f"--{name}={value!r}"])
        else:
            assert parser.parse_args([f"--{name}={value!r}"])[name] == expected


@pytest.mark.parametrize(
    "word", ["1e3", "1.0", "true", "null", "[1]", "'3'", "", "(" * 300, "9" * 5000, "1+1"]
)
def test_words_that_are_no_whole_numbers(word):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--count", type=PositiveInt)
    with pytest.raises(jsonargparse.ArgumentError, match=r"expected a whole number > 0|4300 digits"):
        parser.parse_args([f"--count={word}"])


def test_what_the_parser_returns_are_plain_numbers():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Checked, "thing")
    words = ["--thing=flowlit.solvers.Heun", "--thing.steps=3", "--thing.rho=2"]
    parsed = parser.parse_args(words)
    assert type(parsed.thing.init_args.steps) is int and type(parsed.thing.init_args.rho) is float
    assert parser.instantiate(parsed).thing == Heun(3, 2.0)


def test_help_shows_the_range_in_plain_text():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Heun, "heun")
    parser.add_class_arguments(Fixed, "fixed")
    text = " ".join(parser.format_help().split())
    assert "type: int > 0" in text and "type: float in (0, 1], default: 1.0" in text
    assert "type: float in [0, 1], default: 0.0" in text and text.isascii()


def test_a_check_costs_microseconds():
    import timeit

    assert min(timeit.repeat(lambda: Euler(2), number=200, repeat=5)) / 200 < 2e-4


def test_names_have_an_end():
    check = check_of(Name)
    assert check("a", "x" * 64) == "x" * 64
    with pytest.raises(FlowlitError, match="up to 64"):
        check("a", "x" * 65)
