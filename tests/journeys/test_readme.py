"""What README and the docs tell a reader to type is possible."""

import importlib
import re
import shlex

import pytest
from commandline import REPOSITORY

from flowlit.commands._function import parsed
from flowlit.commands.couplings import COMMANDS as STORES

DOCS = [path for path in (REPOSITORY / "docs").rglob("*.md") if path.parent.name != "adr"]
PAGES = [REPOSITORY / "README.md", *sorted(DOCS)]
COMMANDS = ("fit", "couple", "validate", "test", "predict", "sweep", "reference", "pipeline")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def lines(page):
    """Every command line in a bash block, continuations joined; and every whole flowlit command set in
    code.
    """
    text = page.read_text()
    found = [line for block in blocks(text, "bash") for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    inline = re.findall(
        rf"`(flowlit (?:{'|'.join(COMMANDS)}) [^`…]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )
    return [
        " ".join(line.split())
        for line in [*found, *inline]
        if line.strip() and not line.lstrip().startswith("#")
    ]


ALL = sorted({(page.name, line) for page in PAGES for line in lines(page)})
FLOWLIT = [
    (page, match.group(1))
    for page, line in ALL
    if (match := re.search(rf"(?:^|[ /])flowlit ((?:{'|'.join(COMMANDS)})\b.*)", line))
]


def test_the_readme_is_for_someone_in_a_hurry():
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900


def test_the_readme_shows_the_two_commands_and_their_equivalents():
    shown = [line for page, line in ALL if page == "README.md"]
    assert "make demo" in shown and "make test" in shown
    assert any("flowlit pipeline -c experiments/recipes/slimflow_digits.yaml" in line for line in shown)
    assert len(FLOWLIT) >= 8


@pytest.mark.parametrize(("page", "line"), FLOWLIT, ids=lambda value: value[:70])
def test_every_command_parses(page, line, cli, tmp_path, monkeypatch):
    (tmp_path / "my_objective.py").write_text(
        blocks((REPOSITORY / "docs/extending.md").read_text(), "python")[0]
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = shlex.split(line, comments=True)
    if words[0] == "pipeline":
        outcome = cli(*words, *([] if "--dry-run" in words else ["--dry-run"]))
    else:
        shown = "--print_config" in words or "--help" in words
        trust = [] if words[0] == "reference" else ["--trust"]
        outcome = cli(*words, *([] if shown else ["--print_config", *trust]))
    assert outcome.code == 0, outcome.err


TOOLS = [
    (page, match.group(1), match.group(2))
    for page, line in ALL
    if (match := re.search(r"(?:^|[ /])flowlit (convert|cost|average|couplings|sample) (.*)", line))
]


@pytest.mark.parametrize(("page", "tool", "line"), TOOLS, ids=lambda value: value[:70])
def test_every_command_of_a_plain_function_parses(page, tool, line):
    words = shlex.split(line, comments=True)
    function = getattr(importlib.import_module(f"flowlit.commands.{tool}"), tool, None)
    arguments, _ = parsed(function or STORES[words.pop(0)], words, f"flowlit {tool}")
    assert arguments and all(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page):
    text = page.read_text()
    linked = [
        link.split("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not link.startswith(("http", "#"))
    ]
    for link in linked:
        assert (page.parent / link).exists(), f"{page.name} links {link}"
    named = re.findall(
        r"(?<![\w/.])((?:experiments|flowlit|docs|tests|benchmarks)/[\w/.]+\w\.(?:yaml|py|md|png))", text
    )
    for path in named:
        assert (REPOSITORY / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page):
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    named = [line.split()[1:] for p, line in ALL if p == page.name and line.startswith("make ")]
    named += [words.split() for words in re.findall(r"`make ([\w -]+)`", page.read_text())]
    for target in (word for words in named for word in words):
        assert target in targets, f"{page.name}: make {target}"


def test_the_python_example_of_the_readme_compiles():
    for block in blocks((REPOSITORY / "README.md").read_text(), "python"):
        compile(block, "README.md", "exec")
        for name in re.findall(r"flowlit\.(\w+)\(", block):
            import flowlit

            assert callable(getattr(flowlit, name))
