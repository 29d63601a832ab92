"""The command line of ``flowlit doctor``: a YAML as ``fit`` has it, or a recipe; ``--for`` GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from ...errors import FlowlitError
from .. import lightning
from .._function import run
from .._line.words import config_files
from .._yaml import has_stages, load_yaml
from .gpus import GPUS, read_gpus

FOR = "--for"


def main(argv: Sequence[str]) -> int:
    """Parse and run ``doctor``; return its exit code."""
    words, gpus = without_gpus(argv)
    files = config_files(words)
    if any(is_recipe(file) for file in files):
        if len(files) > 1:
            raise FlowlitError(f"a recipe is looked at alone; found -c {' -c '.join(files)}")
        from .recipe import recipe_command

        return run(recipe_command(gpus), words[1:], "flowlit doctor")

    class DoctorCLI(lightning.FlowCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            add_options(parser)

        def before_doctor(self) -> None:
            super().before_doctor()
            self.trainer.gpus = gpus  # type: ignore[attr-defined]

    return lightning.main(words, DoctorCLI)


def add_options(parser: Any) -> None:
    """Show the options that are taken off the words before a parser reads them."""
    parser.add_argument(
        FOR,
        default=argparse.SUPPRESS,
        metavar="GPU,…",
        help=f"Estimate time and memory for these GPUs, too: {', '.join(GPUS)}.",
    )
    parser.add_argument(
        "--trust",
        default=argparse.SUPPRESS,
        action="store_true",
        help="Build classes of your own that the YAML names, too; that runs their code.",
    )


def without_gpus(words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the words without ``--for`` and its value, and the GPUs that it names.

    Raises:
        FlowlitError: if it has no value, or is given twice.
    """
    others: list[str] = []
    given: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        option, equals, value = word.partition("=")
        if option != FOR:
            others.append(word)
            continue
        if not equals and not remaining:
            raise FlowlitError(f"{FOR} has no value; name GPUs, e.g. {FOR} a10g,4090,h100")
        given.append(value if equals else remaining.pop(0))
    if len(given) > 1:
        raise FlowlitError(f"{FOR} is given twice; name all GPUs in one: {FOR} {','.join(given)}")
    return others, read_gpus(given[0]) if given else ()


def is_recipe(file: str) -> bool:
    """Return whether a file is a recipe of stages."""
    try:
        content = load_yaml(file)
    except FlowlitError:
        return False  # an error of the command that reads it
    return isinstance(content, dict) and has_stages(content)
