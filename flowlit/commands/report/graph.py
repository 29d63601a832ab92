"""The recipe of runs, as far as their configurations have it: which one reads another's results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..pipeline.inputs import READ, READ_OR_WORDS, WRITTEN
from .stage import Stage

VARIABLE = re.compile(r"\$\{vars\.([\w.]+)\}")


def in_order(root: Path, stages: Sequence[Stage]) -> list[Stage]:
    """Find what each run of a root needs, and return them in that order, the first to begin first."""
    names = {stage.name for stage in stages}
    for stage in stages:
        for option, path in _paths(stage, root):
            needed = _run_of(path, root, names)
            if needed is None and option in READ | READ_OR_WORDS and path.name != str(path):
                stage.reads.append(str(path))
            elif needed and needed != stage.name and option not in WRITTEN:
                stage.needs.append(needed)
        stage.needs = list(dict.fromkeys(stage.needs))
        stage.reads = list(dict.fromkeys(stage.reads))
    remaining = sorted(stages, key=lambda stage: (stage.curves.began or float("inf"), stage.name))
    ordered: list[Stage] = []
    while remaining:
        done = {stage.name for stage in ordered}
        free = [stage for stage in remaining if done.issuperset(stage.needs)]
        first = (free or remaining)[0]  # a circle, which strangers may write, is cut somewhere
        ordered.append(first)
        remaining.remove(first)
    return ordered


def _paths(stage: Stage, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield (option, path) for each text of a configuration that looks like a path, variables in place."""
    variables = {}
    for key, value in stage.content.items():  # those of the command line come last
        if key.removeprefix("--").startswith("vars."):
            variables[key.removeprefix("--").removeprefix("vars.")] = str(value)
    variables["root"] = str(root)
    for record in (stage.pairs, *stage.reports.values()):
        checkpoint = (record or {}).get("checkpoint")
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get("file"), str):
            yield "checkpoint", Path(checkpoint["file"][:4096])
    for key, value in stage.content.items():
        option = next((part for part in reversed(key.split(".")) if not part.isdigit()), "")
        if not isinstance(value, str) or key.removeprefix("--").startswith("vars."):
            continue
        for _ in range(3):  # a variable may name another
            value = VARIABLE.sub(lambda match: variables.get(match[1], match[0]), value)
        if "\n" not in value and "\0" not in value and "${" not in value and len(value) < 4096:
            yield option.lstrip("-"), Path(value)


def _run_of(path: Path, root: Path, names: set[str]) -> str | None:
    """Return the run of a root whose folder a path leads into, also if the root was moved since."""
    if path.is_relative_to(root):
        first = path.relative_to(root).parts[:1]
        return first[0] if first and first[0] in names else None
    parts = path.parts
    places = [i for i, part in enumerate(parts[:-1]) if part == root.name and parts[i + 1] in names]
    return parts[places[-1] + 1] if places else None
