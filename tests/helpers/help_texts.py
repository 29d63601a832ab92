"""Help of the commands whose parsers take seconds of imports.

``python tests/helpers/help_texts.py [FOLDER]`` writes it, into the package by default (``make help-texts``).
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from flowlit import commands

WIDTH = "100"
"""Characters of a line, whatever the terminal has."""


def names() -> list[str]:
    """Return the commands whose help is packaged."""
    slow = (":main", ":reference", ":search")
    return [name for name, command in commands.COMMANDS.items() if command.run.endswith(slow)]


def help_of(name: str) -> str:
    """Return the help that the parser of a command prints, with one line of usage."""
    usage = "MODEL --into INTO --nfe NFE [options]" if name == "search" else "-c CONFIG [options]"
    os.environ["COLUMNS"] = WIDTH
    shown = StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        commands.run(name, ["--help"])
    _, _, text = shown.getvalue().partition("\n\n")
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join([f"usage: flowlit {name} {usage}", "", *lines, ""])


def write(folder: Path) -> None:
    """Write a file for each of those commands into a folder."""
    folder.mkdir(exist_ok=True)
    for name in names():
        (folder / f"{name}.txt").write_text(help_of(name), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else commands.help_file("fit").parent)
