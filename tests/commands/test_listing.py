"""``flowlit list``: every class that a YAML can name, under its public name."""

import importlib
import inspect
import re

import pytest

from flowlit._support.names import resolve
from flowlit.commands.listing import KINDS, listing
from flowlit.objectives.intervals import IntervalDistribution
from flowlit.types import Codec, Distance, EMAProfile, ImageDataset, Objective, Solver, TimeDistribution


@pytest.mark.parametrize("kind", [*KINDS, "recipes"])
def test_each_line_names_something_that_exists_and_says_what_it_is(kind, cli):
    shown = cli("list", kind)
    assert shown.code == 0, shown.err
    for line in shown.out.splitlines():
        path, _, text = line.partition("  ")
        assert text.strip() and not text.rstrip().endswith(" al")
        if kind != "recipes":
            assert inspect.isclass(resolve(path))


@pytest.mark.parametrize(
    ("kind", "base", "module"),
    [
        ("solvers", Solver, "solvers"),
        ("objectives", Objective, "objectives"),
        ("score_distillation", Objective, "objectives.score_distillation"),
        ("flow_maps", Objective, "objectives.flow_maps"),
        ("intervals", IntervalDistribution, "objectives.intervals"),
        ("times", TimeDistribution, "objectives.times"),
        ("distances", Distance, "objectives.distances"),
        ("images", ImageDataset, "data"),
        ("codecs", Codec, "data"),
        ("averages", EMAProfile, "schedules.averages"),
    ],
)
def test_no_class_of_a_kind_is_left_out(kind, base, module):
    importlib.import_module(f"flowlit.{module}")
    place = f"flowlit.{module}"
    listed = {resolve(line.partition("  ")[0]) for line in listing(kind)}
    inside = {value for value in _subclasses(base) if value.__module__.startswith(place)}
    assert listed == {
        value
        for value in inside
        if kind != "objectives" or not re.search("score_dist|flow_maps", value.__module__)
    }


def _subclasses(base):
    below = {part for child in base.__subclasses__() for part in {child, *_subclasses(child)}}
    return {
        part
        for part in below
        if not inspect.isabstract(part)
        and not part.__name__.startswith("_")
        and part.__qualname__ == part.__name__
    }


def test_the_kinds_are_listed(cli):
    assert cli("list").out.splitlines() == [f"flowlit list {kind}" for kind in [*KINDS, "recipes"]]


def test_an_unknown_kind_is_refused_with_those_that_exist(cli):
    assert "expected networks, objectives" in cli("list", "colours").error


def test_help_names_the_kind(cli):
    shown = cli("list", "--help").out
    assert "flowlit list [KIND ...]" in shown and "networks, solvers" in shown and "--vars" not in shown
