"""Draw a folder of pictures: circles, squares and triangles of many sizes and kinds, to try flowlit with.

python examples/shapes.py my_images
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle")
MODES = ("RGB", "L", "P", "RGBA")


def draw(kind: str, chance: random.Random, mode: str) -> Image.Image:
    """Draw one shape on a plain ground."""
    size = chance.randint(40, 200)
    width = size if chance.random() < 0.5 else chance.randint(40, 200)
    ground = tuple(chance.randint(200, 255) for _ in range(3))
    colour = tuple(chance.randint(0, 140) for _ in range(3))
    clear = mode == "RGBA"
    picture = Image.new("RGBA", (width, size), (*ground, 0 if clear else 255))
    pen = ImageDraw.Draw(picture)
    r = 0.3 * min(width, size)
    x = width / 2
    y = size / 2
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    return picture if clear else picture.convert("RGB").convert(mode)


def into_folder(root: Path, count: int, classes: bool = True, modes: tuple[str, ...] = MODES) -> Path:
    """Draw so many pictures, in nested folders, one a class; or all in one."""
    chance = random.Random(0)
    for i in range(count):
        kind = KINDS[i % 3]
        folder = root / kind / f"year {i % 2}" if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        mode = modes[i // 3 % len(modes)]
        suffix = "jpg" if mode in ("RGB", "L") and i % 2 else "png"
        draw(kind, chance, mode).save(folder / f"{kind} {i:03}.{suffix}")
    return root


if __name__ == "__main__":
    into_folder(Path(sys.argv[1]), 300)
