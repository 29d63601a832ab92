"""Forms in which images are written: folder, zip, arrays, grid, animation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...errors import FlowlitError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...generators import Generator
    from ...generators.sampling import Rows
    from .request import Request

STILLS = (".png", ".zip", ".npz")
ANIMATIONS = (".gif", ".webp")
ELSEWHERE = "choose another --into"


def check_target(into: Path, moves: bool) -> None:
    """Refuse names whose form does not fit, and files that exist.

    Args:
        into: to be written.
        moves: the result is one of several steps, and may be an animation.

    Raises:
        FlowlitError: with the endings that fit, or what is there already.
    """
    folder = into.is_dir() or into.suffix == ""
    if moves and (folder or into.suffix not in (".png", *ANIMATIONS)):
        raise FlowlitError(
            f"--into {into}: --interpolate and --trajectory make a grid or an animation; expected a name "
            "that ends in .png, .gif or .webp"
        )
    if not moves and not folder and into.suffix not in STILLS:
        still = " (animations are for --interpolate and --trajectory)" * (into.suffix in ANIMATIONS)
        raise FlowlitError(
            f"--into {into}: expected a folder, or a name that ends in .png (one grid), .zip or .npz{still}"
        )
    if into.exists() and not folder:
        raise FlowlitError(f"--into {into} exists; remove it, or {ELSEWHERE}")
    if into.suffix in ANIMATIONS:
        _check_format(into)
    if folder:
        from ...generators.filling import refuse_other_files

        refuse_other_files(into)


def _check_format(into: Path) -> None:
    from PIL import Image

    Image.init()
    if into.suffix[1:].upper() not in Image.SAVE_ALL:
        raise FlowlitError(f"--into {into}: Pillow on this machine writes none; use .gif or .png")


def written(into: Path, generator: Generator, request: Request, batch_size: int) -> str:
    """Generate and write what is requested; return a line on it."""
    from ..._support.locks import locked_target
    from ...generators.filling import check_channels, image_shape, write_archive, write_folder

    animated = into.suffix in ANIMATIONS
    steps = request.steps(animated)
    rows = request.rows(generator, steps)
    shape = image_shape(generator)
    check_channels(shape[0])
    size = "×".join(map(str, shape))
    if into.is_dir() or into.suffix in ("", ".zip", ".npz"):
        write = write_archive if into.suffix in STILLS and not into.is_dir() else write_folder
        write(into, generator, rows, batch_size)
        return f"{into}: {rows.num:,} images of {size}"
    with locked_target(into):
        frames = _frames(generator, request, rows, batch_size, steps, animated)
        _write(into, frames, _facts(generator, request, rows))
    if request.trajectory:
        return f"{into}: {rows.num:,} rows of {steps} states of {size}"
    return f"{into}: {rows.num:,} images of {size}"


def _frames(
    generator: Generator, request: Request, rows: Rows, batch_size: int, steps: int, animated: bool
) -> list[Image]:
    """Return the pictures of an animation, or one picture."""
    from ...generators.pictures import enlarged, grid, pil
    from ...generators.sampling import generated
    from ...generators.trajectories import trajectories

    if request.trajectory:
        states = trajectories(generator, rows, steps)
        if animated:
            return [grid(states[:, step], request.columns) for step in range(steps)]
        return [grid(states.flatten(0, 1), steps)]
    images = generated(generator, rows, batch_size)
    if animated:
        return pil(enlarged(images))
    return [grid(images, request.columns or (steps if request.interpolate else None))]


def _facts(generator: Generator, request: Request, rows: Rows) -> dict[str, Any]:
    """Return what a picture depends on, for the text in its file."""
    from ...generators.filling import facts_of

    return {"version": __version__, **asdict(request), **facts_of(generator, rows)}


def _write(into: Path, frames: list[Image], facts: dict[str, Any]) -> None:
    from ...generators.pictures import write_animation, write_picture

    if into.exists():  # since it was looked for
        raise FlowlitError(f"--into {into} exists; remove it, or {ELSEWHERE}")
    if into.suffix in ANIMATIONS:
        write_animation(into, frames)
    else:
        write_picture(into, frames[0], facts)
