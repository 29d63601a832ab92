"""``flowlit init``: a folder of one's own with a recipe in it."""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .._support.suggestions import did_you_mean
from ..errors import FlowlitError
from .pipeline.reading import read_recipe

EXPERIMENTS = "experiments"
README = """\
# {name}

`flowlit pipeline -c {recipe}` runs the recipe, and goes on where it was interrupted.
`flowlit pipeline -c {recipe} --dry-run` says what would run, and why.
The YAMLs in {experiments}/ are yours to change; each begins with what it needs, writes and costs.
"""


def init(folder: str, *, recipe: str = "slimflow_digits") -> str:
    """Copy a recipe into a new folder, with its YAMLs and a README of a few lines.

    Args:
        folder: where to; created, and must not have an experiments/ yet
        recipe: a name of `flowlit list recipes`

    Raises:
        FlowlitError: if there is no such recipe, or the folder has experiments already.
    """
    source = shipped()
    into = Path(folder)
    name = Path(recipe).stem
    start = f"{EXPERIMENTS}/recipes/{name}.yaml"
    if not (source / start).is_file():
        names = sorted(path.stem for path in (source / EXPERIMENTS / "recipes").glob("*.yaml"))
        raise FlowlitError(f"no recipe {name}; expected one of {', '.join(names)}{did_you_mean(name, names)}")
    if (into / EXPERIMENTS).exists():
        raise FlowlitError(f"{into / EXPERIMENTS} exists already; give a new folder, or remove it")
    files = sorted(needed(source, start))
    new = into if not into.exists() else into / EXPERIMENTS
    try:
        for path in files:
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, into / path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    variables = read_recipe(str(source / start))[0].get("vars") or {}
    words = f"{start} --vars.images {variables['images']}" if "images" in variables else start
    readme = into / "README.md"
    if not readme.exists():
        readme.write_text(README.format(name=into.absolute().name, recipe=words, experiments=EXPERIMENTS))
    return f"{into}: {len(files)} YAMLs\n\n  cd {into}\n  flowlit pipeline -c {words}"


def shipped() -> Path:
    """Return the folder that has the experiments of this installation: a clone, or where pip put them.

    Raises:
        FlowlitError: if they were left out.
    """
    places = [Path(__file__).parents[2], Path(sysconfig.get_path("data")) / "share/flowlit"]
    for place in places:
        if (place / EXPERIMENTS / "recipes").is_dir():
            return place
    raise FlowlitError(f"no experiments in {' or '.join(map(str, places))}; install flowlit again")


def needed(source: Path, start: str) -> set[str]:
    """Return a YAML and all that it names outside comments, directly or not, relative to the source."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _named(source, path)
    return found


def _named(source: Path, path: str) -> Iterator[str]:
    """Yield the YAMLs that one names, relative to the source or to its own folder, for any variable."""
    text = re.sub(r"(?m)^\s*#.*$", "", (source / path).read_text())
    for name in re.findall(r"[\w./*-]+\.yaml", re.sub(r"\$\{vars\.\w+\}", "*", text)):
        for folder in (source, (source / path).parent):
            places = list(folder.glob(name))
            yield from (str(place.resolve().relative_to(source.resolve())) for place in places)
            if places:
                break
