"""``flowlit upscale``: photographs, enlarged by a generator of super-resolution."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._support.files import matching
from .._version import __version__
from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveInt, Probability, Seed

if TYPE_CHECKING:
    from ..data.photographs import Photograph
    from ..generators.upscaling import Upscaler

TIFF = {".tif", ".tiff"}
"""Names of files that are taken from a folder, besides those of images to train on."""

NAMED = 5
"""Images that an error names."""


def upscale(
    images: list[str],
    *,
    model: str,
    into: Path,
    t: Probability | None = None,
    scale: PositiveInt | None = None,
    seed: Seed = 0,
    tile: PositiveInt | None = None,
    overlap: NonNegativeInt | None = None,
    batch: PositiveInt = 16,
    colour: Literal["none", "adain", "wavelet", "chroma"] = "none",
    back_projection: bool = False,
    weights: str = "ema",
    device: str | None = None,
) -> Iterator[str]:
    """Enlarge images of any size by a network that was trained for super-resolution, and write PNGs.

    Large images are made of overlapping tiles without seams. Bits (8 or 16), transparency, colour profile and
    EXIF are kept, and photos stand upright. A result depends on image, model, t, seed and size of the tiles.

    Args:
        images: files, folders of images, or patterns such as "photos/*.jpg"
        model: a run's folder, or a checkpoint
        into: folder of the results, which are named as the images, .png
        t: from fidelity (0) to realism (1), for students of TrajectoryDistillation; their own by default
        scale: expected factor; another one than the model's is refused
        seed: of the noise; another one gives another answer to the same image
        tile: side of the tiles, in pixels of the result; that of the images of training by default
        overlap: of tiles, in pixels of the result; a quarter of a tile by default
        batch: tiles at a time; no result depends on it
        colour: take mean and spread (adain), low frequencies (wavelet) or chroma of colours from the input
        back_projection: correct results so that, brought down, they are the input; not for noisy inputs
        weights: ema, raw, or the name of another average
        device: as cuda; the CPU by default

    Raises:
        FlowlitError: before any work for other models, and results that exist or would replace an image;
            after it, naming images that could not be read or enlarged, without which the others are done.
    """
    targets = _targets(_files(images), into)
    options: dict[str, Any] = {"seed": seed, "overlap": overlap, "batch": batch, "colour": colour}
    options["back_projection"] = back_projection
    upscaler = _upscaler(model, weights, device, t, scale, tile=tile, **options)
    facts = {"flowlit": json.dumps(_facts(upscaler, model, weights))}
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowlitError(f"--into {into} cannot be made ({error}); choose another folder") from error
    yield from _each(targets, upscaler, facts)


def _each(targets: dict[Path, Path], upscaler: Upscaler, facts: dict[str, str]) -> Iterator[str]:
    """Enlarge images one after the other; yield a line on each.

    Raises:
        FlowlitError: at the end, naming the first of those that failed.
    """
    broken: dict[Path, str] = {}
    for path, target in targets.items():
        try:
            line = _enlarged(path, target, upscaler, facts)
        except Exception as error:
            broken[path] = _reason(error)
            line = f"{path}: not enlarged, {broken[path]}"
        yield line
    if broken:
        named = "; ".join(f"{path}: {why}" for path, why in list(broken.items())[:NAMED])
        more = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
        done = len(targets) - len(broken)
        others = f"; the other {done:,} are done" if done else ""
        raise FlowlitError(f"{len(broken):,} of {len(targets):,} images failed: {named}{more}{others}")


def _reason(error: Exception) -> str:
    """Return in words why an image failed; what is no matter of that image is raised again."""
    from ..data.decode import UnreadableImage

    if not isinstance(error, (UnreadableImage, FlowlitError)):
        raise error
    return str(error)


def _upscaler(
    model: str, weights: str, device: str | None, t: float | None, scale: int | None, **options: Any
) -> Upscaler:
    from ..generators import load
    from ..generators.upscaling import upscaler_of

    try:
        return upscaler_of(load(model, weights, device=device), t, scale, **options)
    except FlowlitError as error:
        raise FlowlitError(f"--model {model}: {error}") from error


def _files(images: Sequence[str]) -> list[Path]:
    """Return the files that words mean: themselves, those of a folder, those of a pattern, each once.

    Raises:
        FlowlitError: for words that mean none.
    """
    from ..data.decode import SUFFIXES

    files: list[Path] = []
    for word in images:
        paths = [Path(name) for name in matching(word)]
        inside = [path for folder in paths if folder.is_dir() for path in sorted(folder.iterdir())]
        pictures = [path for path in inside if path.suffix.lower() in SUFFIXES | TIFF and not path.is_dir()]
        new = [path for path in paths if not path.is_dir()] + pictures
        if not new:
            what = "has no images" if paths else "does not exist"
            said = word if word.strip() else f"'{word}'"
            raise FlowlitError(f"{said} {what}; expected images, folders of images, or patterns")
        files += new
    return list(dict.fromkeys(files))


def _targets(files: Sequence[Path], into: Path) -> dict[Path, Path]:
    """Return the file to write for each image.

    Raises:
        FlowlitError: if one exists, is an image to read, or is that of two images.
    """
    targets: dict[Path, Path] = {}
    sources = {os.path.realpath(path) for path in files}
    named: dict[str, Path] = {}
    for path in files:
        target = into / f"{path.stem}.png"
        other = named.setdefault(target.name, path)
        if other != path:
            raise FlowlitError(f"{other} and {path} would both become {target}; rename one of them")
        if os.path.realpath(target) in sources:
            raise FlowlitError(f"{target} would replace an image that is read; choose another --into")
        if os.path.lexists(target):
            what = "exists" if target.exists() else "is a link to nothing"
            raise FlowlitError(f"{target} {what}; remove it, or choose another --into")
        targets[path] = target
    if os.path.lexists(into) and not into.is_dir():
        what = "a file" if into.exists() else "a link to nothing"
        raise FlowlitError(f"--into {into} is {what}; expected a folder")
    return targets


def _enlarged(path: Path, target: Path, upscaler: Upscaler, facts: dict[str, str]) -> str:
    """Read, enlarge and write one image; return a line on it."""
    from .._support.progress import Bar
    from ..data.photographs import read_photograph, write_photograph

    photograph = read_photograph(path)
    height, width = photograph.pixels.shape[1:]
    tiles = upscaler.tiles(height, width)
    with Bar(total=tiles, desc=path.name, unit=" tiles", leave=False) as bar:
        result = _result(photograph, upscaler, bar.update)
    write_photograph(target, result, facts)
    kinds = ["grey"] * (len(result.pixels) == 1) + [f"{result.bits} bits"] * (result.bits > 8)
    kinds += ["alpha"] * (result.alpha is not None) + ["colour profile"] * (result.icc is not None)
    about = "".join(f", {kind}" for kind in kinds)
    return f"{target}: {photograph.size} → {result.size}{about}, {tiles:,} tile{'s' * (tiles != 1)}"


def _result(photograph: Photograph, upscaler: Upscaler, done: Any) -> Photograph:
    """Return an enlarged photograph, and its transparency enlarged by bicubic resizing."""
    from ..data.bicubic import resize
    from ..data.photographs import with_bled_colours

    pixels = upscaler(with_bled_colours(photograph), done)
    alpha = photograph.alpha
    if alpha is not None:
        alpha = resize(alpha[None], (pixels.shape[1], pixels.shape[2]))[0].clamp(0, 1)
    return photograph._replace(pixels=pixels, alpha=alpha)


def _facts(upscaler: Upscaler, model: str, weights: str) -> dict[str, Any]:
    """Return what a result depends on, for the text in its file."""
    from ..types import loaded_of

    file = loaded_of(upscaler.generator.network) or {}
    return {
        "version": __version__,
        "model": Path(model).name,
        "sha256": file.get("sha256"),
        "weights": weights,
        "solver": repr(upscaler.generator.solver),
        "scale": upscaler.scale,
        "seed": upscaler.seed,
        "tile": upscaler.tiler.tile,
        "overlap": upscaler.tiler.overlap,
        "colour": upscaler.colour,
        "back_projection": upscaler.back_projection,
    }
