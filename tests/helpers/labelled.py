"""Small labelled sets of images: folders with a sub-folder a class, and zips with a ``dataset.json``."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def png(grey: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), grey).save(file, "PNG")
    return file.getvalue()


def folder(root: Path, classes: Mapping[str, int], size: int = 8) -> Path:
    """A folder with so many images of each class; 0 leaves an empty sub-folder."""
    for place, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(png(10 * place + i, size))
    return root


def archive(
    path: Path,
    labels: Any,
    names: Iterable[str] | None = None,
    classes: Any = None,
    text: Any = None,
    size: int = 8,
) -> Path:
    """A zip with an image for each name (those of the labels), and ``dataset.json`` with labels and classes.

    ``text`` replaces all of ``dataset.json``; "" leaves it out.
    """
    names = [name for name, _ in labels] if names is None else names
    content = {"labels": labels, **({} if classes is None else {"classes": classes})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for place, name in enumerate(dict.fromkeys(names)):
            file.writestr(name, png(place, size))
        if text != "":
            file.writestr("dataset.json", json.dumps(content) if text is None else text)
    return path


def labels(images: Any) -> list[int]:
    return [int(images[i]["cond"]["label"]) for i in range(len(images))]
