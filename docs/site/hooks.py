"""Pages of the documentation site that are made from what the repository has already.

The home page is README.md, every YAML of experiments/ is a page with its text, and the reference has one
page for each package, with all its public names. Links between them keep working on both sides: in the
repository and on the site.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {".yaml": "yaml", ".py": "python", "": "text", ".md": ""}
"""Kinds of files outside docs/ that pages may link to, and how their text is coloured."""

PAGES = {
    "flowlit": "Python",
    "flowlit.types": "types",
    "flowlit.data": "data",
    "flowlit.couplings": "couplings",
    "flowlit.networks": "networks",
    "flowlit.objectives": "objectives",
    "flowlit.objectives.times": "objectives.times",
    "flowlit.objectives.weights": "objectives.weights",
    "flowlit.objectives.distances": "objectives.distances",
    "flowlit.solvers": "solvers",
    "flowlit.solvers.grids": "solvers.grids",
    "flowlit.solvers.search": "solvers.search",
    "flowlit.schedules": "schedules",
    "flowlit.schedules.averages": "schedules.averages",
    "flowlit.paths": "paths",
    "flowlit.metrics": "metrics",
    "flowlit.modules": "modules",
    "flowlit.callbacks": "callbacks",
    "flowlit.rng": "rng",
    "flowlit.frozen": "frozen",
    "flowlit.errors": "errors",
}
"""Modules with a page in the reference, in reading order, and its name."""


def on_config(config: Any) -> Any:
    """List the pages of the reference at the side."""
    section = next(part for part in config["nav"] if "Reference" in part)
    section["Reference"] += [{module: f"reference/{name}.md"} for module, name in PAGES.items()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the home page, the shown files and the reference."""
    readme = (ROOT / "README.md").read_text()
    add = [("index.md", re.sub(r"\]\(docs/", "](", readme))]
    add += [(f"reference/{name}.md", reference(module)) for module, name in PAGES.items()]
    add.append(("reference/index.md", contents()))
    add += [(shown_as(path), shown(path)) for path in shown_files()]
    for uri, content in add:
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Let links that leave docs/ lead to the pages of those files."""
    folder = Path(page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        place = os.path.normpath(folder / target)
        outside = place[3:] if place.startswith("../") else place
        if outside == "README.md":
            return f"]({_to('index.md', folder)}{anchor})"
        if not (ROOT / "docs" / place).is_file() and (ROOT / outside).is_file():
            return f"]({_to(shown_as(Path(outside)), folder)}{anchor})"
        return match[0]

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", replace, markdown)


def _to(uri: str, folder: Path) -> str:
    return os.path.relpath(uri, folder)


def shown_files() -> list[Path]:
    """Return the files outside docs/ that are pages of the site, relative to the repository."""
    yamls = sorted((ROOT / "experiments").rglob("*.yaml"))
    others = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")]
    examples = sorted((ROOT / "examples").glob("*.py"))
    return [path.relative_to(ROOT) for path in [*yamls, *examples, *others] if path.is_file()]


def shown_as(path: Path) -> str:
    """Return the page's place on the site."""
    return str(path) if path.suffix == ".md" else f"{path}.md"


def shown(path: Path) -> str:
    """Return a file's text as a page."""
    text = (ROOT / path).read_text()
    if path.suffix == ".md":
        return text
    return f"# {path}\n\n```{SHOWN[path.suffix]}\n{text.rstrip()}\n```\n"


def contents() -> str:
    """Return the first page of the reference: packages and their first sentences."""
    rows = [f"| [{module}]({name}.md) | {_summary(module)} |" for module, name in PAGES.items()]
    return "\n".join(["# Reference", "", "| package | what it has |", "|---|---|", *rows, ""])


def _summary(module: str) -> str:
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return " ".join(text.split("\n\n")[0].split())


def reference(module: str) -> str:
    """Return the reference of a module's public names, each with the name that a YAML gives it."""
    lines = [f"# {module}", "", _summary(module), ""]
    for name, thing in public(importlib.import_module(module)):
        path = f"{thing.__module__}.{thing.__qualname__}"
        inherited = ", inherited_members: true" if module == "flowlit" else ""
        options = f"    options: {{heading: {module}.{name}, toc_label: {name}{inherited}}}"
        lines += [f"::: {path}", options, ""]
    return "\n".join(lines)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the public classes and functions of a module: those in ``__all__``, or defined in it."""
    listed = getattr(module, "__all__", None)
    own = [
        name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
    ]
    for name in listed or own:
        thing = getattr(module, name)
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
            yield name, thing
