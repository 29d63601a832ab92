"""Hostile variables, budgets and images of recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pictures
import yaml

from flowlit.commands.pipeline.recipe import Recipe

from .row import Row

GOOD = {"a.png": pictures.encoded(pictures.RGB)}


def _settled(files: dict[str, bytes], words: list[str], **changes: Any) -> Callable[[Path], Any]:
    """Return an attempt at a recipe whose ``images`` are a folder of these files."""

    def attempt(folder: Path) -> Any:
        pictures.into_folder(folder / "images", files)
        (folder / "a.yaml").write_text("vars: {resolution: 8}\n")
        stages = {"a": {"command": "fit", "config": f"{folder}/a.yaml", "writes": "a/x"}}
        variables = {"images": f"{folder}/images", "resolution": 8, "classes": "auto", "minutes": None}
        content = {"root": f"{folder}/root", "vars": variables, "stages": stages, **changes}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        recipe = Recipe.read(str(folder / "recipe.yaml"))
        recipe.override(words)
        return recipe.settle()

    return attempt


VALUES = {
    "resolution": [
        "0",
        "-8",
        "7",
        "1e9",
        "8.5",
        "eight",
        "[8]",
        "true",
        "null",
        "010",
        "99999999999999999999",
    ],
    "classes": ["3", "yes", "", "Auto", "../x", "${vars.images}"],
    "images": ["/nonexistent", "", "\0", "a.yaml/x", "${vars.images}x"],
    "nothing": ["1"],
}
NO_VARIABLES = [1, "a", [1], {"root": "x"}, {"": 1}, {"a-b": 1}, {1: 1}, {"a": {}}, {"a": []}]
NO_BUDGETS = [1, "a", [], {}, {"stage": "a"}, {"stage": "a", "counts": 1}, {"stage": "b", "counts": {}}]
COUNTS = [
    1,
    {},
    {"share": 0},
    {"share": 2, "images": 1},
    {"share": 1, "images": -1},
    {"share": 1, "batches": "x"},
]
FILES = {
    "nothing": {},
    "a text that is no image": {"a.png": b"no image"},
    "an image without its end of the header": {"a.png": GOOD["a.png"][:20]},
    "other files": {"a.txt": b"x"},
}

ROWS = [
    *(
        Row(f"recipe: --vars.{name} {value!r}", _settled(GOOD, [f"--vars.{name}={value}"]), ())
        for name, values in VALUES.items()
        for value in values
    ),
    *(
        Row(f"recipe: vars {value!r}", _settled(GOOD, [], vars=value), ("recipe.yaml: ",))
        for value in NO_VARIABLES
    ),
    *(
        Row(f"recipe: budget {value!r}", _settled(GOOD, [], budget=value), ("budget: ",))
        for value in [*NO_BUDGETS, *({"stage": "a", "counts": {"n": count}} for count in COUNTS)]
    ),
    *(Row(f"recipe: a folder of {name}", _settled(files, []), ("images",)) for name, files in FILES.items()),
]
