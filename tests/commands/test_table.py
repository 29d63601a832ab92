"""The table of commands: each has help that is instant, a file that it leads to, and a place in README."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import help_texts
import pytest
from commandline import REPOSITORY

from flowlit import commands
from flowlit.callbacks.evaluation.grids import FirstImages
from flowlit.commands.couplings import COMMANDS as STORES

FOLDER = Path(commands.__file__).parent
EVERY = [[name] for name in commands.COMMANDS] + [["couplings", name] for name in STORES]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_has_help(words, cli):
    shown = cli(*words, "--help")
    assert shown.code == 0, shown.err
    assert shown.out.startswith(f"usage: flowlit {' '.join(words)} ")


def test_help_imports_no_torch_and_writes_nothing(tmp_path):
    code = (
        "import json, sys; from flowlit.commands import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: assert main([*words, '--help']) == 0\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(EVERY)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse sets options otherwise")
def test_packaged_help_is_what_the_parsers_print(tmp_path):
    """In a process of its own: other tests import subclasses, which the help then lists."""
    script = REPOSITORY / "tests/helpers/help_texts.py"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "60"}
    subprocess.run([sys.executable, script, tmp_path], check=True, cwd=REPOSITORY, env=env)
    assert {path.stem for path in tmp_path.iterdir()} == set(help_texts.names())
    assert {path.stem for path in (FOLDER / "help").iterdir()} == set(help_texts.names())
    for path in tmp_path.iterdir():
        assert path.read_text() == (FOLDER / "help" / path.name).read_text(), "make help-texts"


def test_help_lists_no_base_that_cannot_be_used():
    for path in (FOLDER / "help").iterdir():
        for base in ("evaluation.base.Evaluation", "evaluation.grids.FirstImages"):
            assert f"flowlit.callbacks.{base}" not in path.read_text(), path
    with pytest.raises(TypeError, match="abstract"):
        FirstImages(4)


def files_at(place):
    """The module or package at a place, and the package that it is in."""
    files = (place.with_suffix(".py"), place / "__init__.py", place.parent / "__init__.py")
    return [file for file in files if file.is_file()]


def imported(path):
    """Yield the files of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for place in (base, *(base / name.name for name in node.names)):
                yield from files_at(place)


def test_every_file_is_reached_from_the_table():
    starts = [
        FOLDER / command.run.partition(":")[0].replace(".", "/") for command in commands.COMMANDS.values()
    ]
    waiting = [file for place in (*starts, FOLDER / "_function") for file in files_at(place)]
    reached = set()
    while waiting:
        file = waiting.pop()
        if file not in reached and FOLDER in file.parents:
            reached.add(file)
            waiting += imported(file)
    assert set(FOLDER.rglob("*.py")) == reached


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_stands_in_the_readme(name):
    assert re.search(rf"flowlit {name}\b", (REPOSITORY / "README.md").read_text())


def test_examples_name_files_that_exist():
    for name, command in commands.COMMANDS.items():
        for path in re.findall(r"experiments/\S+\.yaml", command.example):
            assert (REPOSITORY / path).is_file(), f"{name}: {path}"


def test_windows_is_told_at_once_where_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(commands.sys, "platform", "win32")
    assert commands.main(["fit", "-c", "a.yaml"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert commands.main([]) == 1
    assert "run it in WSL: wsl --install" in capsys.readouterr().err
