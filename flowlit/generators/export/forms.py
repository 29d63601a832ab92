"""The forms in which generators are exported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from ...errors import FlowlitError

Name = Literal["safetensors", "torch", "compiled", "onnx", "web", "diffusers"]
"""What ``--to`` takes."""


class Form(NamedTuple):
    """A form of a generator on the disk."""

    ending: str
    """Of the file's name."""
    what: str
    """In words."""


FORMS: dict[str, Form] = {
    "safetensors": Form(".safetensors", "weights and their description, for flowlit.load"),
    "torch": Form(".pt2", "a program of torch.export"),
    "compiled": Form(".pt2", "a library of AOTInductor for processors like this one"),
    "onnx": Form(".onnx", "a graph for onnxruntime and others"),
    "web": Form("", "a folder with a page that runs it in a browser"),
    "diffusers": Form("", "a folder of a pipeline for diffusers"),
}


def form_of(to: str, into: Path) -> Form:
    """Return the form of that name.

    Raises:
        FlowlitError: if the file's name does not end as those of the form do.
    """
    form = FORMS[to]
    if form.ending and into.suffix != form.ending:
        raise FlowlitError(f"--into {into}: an export --to {to} ends in {form.ending}")
    return form


def check_free(paths: Iterable[Path]) -> None:
    """Refuse files that exist.

    Raises:
        FlowlitError: naming the first.
    """
    for path in paths:
        if path.exists():
            raise FlowlitError(f"{path} exists; remove it, or choose another --into")


@contextmanager
def all_or_none(*paths: Path) -> Iterator[None]:
    """Have all of these files be written inside, or leave none of them."""
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def beside(into: Path) -> Path:
    """Return the file of the report beside an export."""
    return into.with_name(f"{into.name}.json")
