"""Words of ``flowlit doctor`` that are wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from flowlit.commands.doctor.gpus import read_gpus
from flowlit.commands.doctor.line import without_gpus

from .row import Row

NAMES = (
    "",
    ",",
    "a10g,",
    "gtx480",
    "h100 a100",
    "H100;A100",
    "all",
    "0",
    "-1",
    "nan",
    "ä100",
    "../h100",
    "h" * 500,
)
"""What is no list of GPUs."""

GIVEN = {"no value": ["--for"], "twice": ["--for", "h100", "--for=a100"], "empty": ["--for="]}


def read(text: str, folder: Path) -> object:
    """Read names of GPUs."""
    return read_gpus(text)


def take(words: list[str], folder: Path) -> object:
    """Take the GPUs off the words of a command line."""
    return without_gpus(["doctor", *words])


ROWS = [Row(f"doctor for GPU {name[:20]!r}", partial(read, name), ("--for", "t4")) for name in NAMES] + [
    Row(f"doctor with --for: {name}", partial(take, words), ("--for",)) for name, words in GIVEN.items()
]
