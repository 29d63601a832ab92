"""docs/methods.md is complete, and what it names exists."""

import inspect
import re

import pytest
from commandline import REPOSITORY

import flowlit.couplings
import flowlit.modules
import flowlit.objectives
import flowlit.objectives.flow_maps
import flowlit.objectives.score_distillation
import flowlit.solvers
from flowlit._support.names import resolve
from flowlit.modules import FlowModule
from flowlit.types import Coupling, Objective, Solver

PAGE = REPOSITORY / "docs" / "methods.md"
TEXT = PAGE.read_text()
COLUMNS = ["method", "paper", "objective", "solver", "coupling", "module", "experiment", "ours", "theirs"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| method ")
]
CLASSES = sorted(set(re.findall(r"`([a-z_.]+\.[A-Z]\w*)`", "".join("|".join(row) for row in ROWS))))
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT)))


def public(package, base):
    things = {name: getattr(package, name) for name in package.__all__}
    classes = {name for name, thing in things.items() if inspect.isclass(thing) and issubclass(thing, base)}
    return {name for name in classes if not inspect.isabstract(things[name]) and things[name] is not base}


def test_every_row_has_every_column_and_every_table_the_same():
    heads = [line for line in TEXT.splitlines() if line.startswith("| method ")]
    assert len(ROWS) > 20 and len(heads) == 9
    assert all([cell.strip() for cell in head.strip("|").split("|")] == COLUMNS for head in heads)
    assert all(len(row) == len(COLUMNS) and all(row) for row in ROWS)


@pytest.mark.parametrize(
    ("package", "base"),
    [
        (flowlit.objectives, Objective),
        (flowlit.objectives.score_distillation, Objective),
        (flowlit.objectives.flow_maps, Objective),
        (flowlit.solvers, Solver),
        (flowlit.couplings, Coupling),
        (flowlit.modules, FlowModule),
    ],
    ids=["objectives", "score_distillation", "flow_maps", "solvers", "couplings", "modules"],
)
def test_every_public_class_of_a_kind_stands_in_its_column(package, base):
    kind = package.__name__.split(".")[1]
    column = " ".join(row[COLUMNS.index(kind.removesuffix("s"))] for row in ROWS)
    assert public(package, base) <= {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", column)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_can_be_imported(name):
    assert inspect.isclass(resolve(f"flowlit.{name}"))


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_every_file_exists(link):
    assert (PAGE.parent / link.partition("#")[0]).is_file()


def test_every_yaml_is_one_of_the_experiments():
    cells = " ".join(row[COLUMNS.index("experiment")] for row in ROWS)
    linked = re.findall(r"\]\(([^)]+)\)", cells)
    assert linked and all(re.fullmatch(r"\.\./experiments/[\w/]+\.yaml", link) for link in linked)


def test_numbers_of_ours_are_those_of_the_pages_that_say_how_they_were_measured():
    pages = [REPOSITORY / "README.md", *(p for p in (REPOSITORY / "docs").rglob("*.md") if p != PAGE)]
    measured = {number for page in pages for number in re.findall(r"\d+\.\d+", page.read_text())}
    headers = {
        number
        for path in (REPOSITORY / "experiments").glob("*.yaml")
        for number in re.findall(r"\d+\.\d+", path.read_text())
    }
    ours = re.findall(r"\d+\.\d+", " ".join(row[COLUMNS.index("ours")] for row in ROWS))
    assert len(ours) > 15 and set(ours) <= measured | headers
