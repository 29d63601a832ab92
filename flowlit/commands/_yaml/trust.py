"""Files of strangers: commands that look at a YAML import nothing that it names, unless it is trusted.

A class path may name anything that can be imported, and importing is running. ``fit`` and the other commands
that work run what they are given; ``doctor``, ``cost``, ``pipeline`` and ``--print_config`` keep to the
packages below.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import FlowlitError

PACKAGES = (
    *("flowlit", "torch.nn", "torch.optim", "torchvision.models"),
    *("lightning.pytorch.accelerators", "lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
    *("lightning.pytorch.plugins", "lightning.pytorch.profilers", "lightning.pytorch.strategies"),
    "lightning.fabric.plugins",  # where those of lightning.pytorch.plugins are defined
)
"""Packages whose classes any YAML may name: nothing in them runs code or commands that an argument names."""

DENIED = ("flowlit.commands", "flowlit._engine", "flowlit._support", "flowlit.__main__")
"""What of them is for flowlit alone."""

TRUST = "FLOWLIT_TRUST"
"""Environment variable with folders, as in PATH, whose files are trusted."""

UNTRUSTED = "FLOWLIT_UNTRUSTED"
"""Set by a pipeline for its stages, if its files are not trusted."""

MEND = (
    "only classes of flowlit, torch.nn, torch.optim, torchvision.models and Lightning's parts are built from "
    f"a file that is not trusted; read it, it runs code, then add --trust, or name its folder in {TRUST}"
)


def trusted(files: Iterable[str | Path]) -> bool:
    """Return whether all files are in folders that are trusted."""
    names = os.environ.get(TRUST, "").split(os.pathsep)
    folders = [Path(name).resolve() for name in names if name]
    return all(any(Path(file).resolve().is_relative_to(folder) for folder in folders) for file in files)


def without_trust(words: Sequence[str], looks: bool) -> tuple[list[str], bool]:
    """Return the words without ``--trust``, and whether it is there.

    Raises:
        FlowlitError: if the command does not look, but runs what the YAML names in any case.
    """
    others = [word for word in words if word != "--trust"]
    given = len(others) < len(words)
    if given and not looks:
        raise FlowlitError(
            f"--trust is for doctor, cost, pipeline and --print_config; drop it for {words[0]}"
        )
    return others, given


def check_class_paths(content: Any, file: str | Path) -> None:
    """Refuse class paths that lead out of the packages, before anything is imported.

    Raises:
        FlowlitError: naming the first of them.
    """
    if isinstance(content, list):
        for item in content:
            check_class_paths(item, file)
    if not isinstance(content, dict):
        return
    path = content.get("class_path")
    if isinstance(path, str) and "." in path and not _is_allowed(path):
        raise FlowlitError(f"{file} names {path}; {MEND}")
    if content.get("weights_only") not in (None, True):
        raise FlowlitError(f"{file} sets weights_only, so that checkpoints may run code; {MEND}")
    for value in content.values():
        check_class_paths(value, file)


def _is_allowed(path: str) -> bool:
    denied = any(path == name or path.startswith(f"{name}.") for name in DENIED)
    return not denied and any(path.startswith(f"{name}.") for name in PACKAGES)


@contextmanager
def only_packages(restricted: bool = True) -> Iterator[None]:
    """Have parsers import nothing else than the packages, whatever a value resolves to.

    Fields without a type are given plain data: a class path in them is not called.
    """
    if not restricted and UNTRUSTED not in os.environ:
        yield
        return
    import jsonargparse
    from jsonargparse._common import parsing_settings  # there is no public way back

    before = dict(parsing_settings)
    jsonargparse.set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*", *DENIED],
        import_path_allowlist=list(PACKAGES),
    )
    try:
        yield
    finally:
        parsing_settings.clear()
        parsing_settings.update(before)
