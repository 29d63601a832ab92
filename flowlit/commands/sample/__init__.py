"""``flowlit sample``: images of a checkpoint, without a YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...ranges import PositiveInt, Seed
from .outputs import written
from .request import Request


def sample(
    checkpoint: str,
    *,
    into: Path,
    num: PositiveInt | None = None,
    seed: Seed | None = None,
    seeds: list[str] = [],
    labels: list[str] = [],
    prompt: list[str] = [],
    solver: str | None = None,
    nfe: PositiveInt | None = None,
    weights: str = "ema",
    device: str | None = None,
    batch_size: PositiveInt = 256,
    columns: PositiveInt | None = None,
    interpolate: list[str] = [],
    trajectory: bool = False,
    frames: PositiveInt | None = None,
) -> Iterator[str]:
    """Generate images from a checkpoint, and write them in the form that the name of the target says.

    A folder gets PNGs and a list; .png is one grid; .zip has PNGs and dataset.json for flowlit.data.ImageZip;
    .npz has arr_0 (N, H, W, C) and classes arr_1. The same command goes on after it was ended.

    Args:
        checkpoint: a run's folder, a checkpoint, a converted file, or a folder with safetensors
        into: a folder, or a file .png, .zip or .npz; .png, .gif or .webp for --interpolate and --trajectory
        num: images 0, 1, … of the seed; 64 by default, or as many as there are labels
        seed: of the noise; 0 by default
        seeds: one image of each of these, in place of --num and --seed, as 1 5 10-19
        labels: class of all images, or one for each, by number or name; balanced by default
        prompt: for a network that reads text: one of all images, or several in turn, each in quotes
        solver: as Heun or RK45(rtol=1e-3), or a YAML of flowlit search; that of the checkpoint by default
        nfe: evaluations of the network for an image, from which steps follow
        weights: ema, raw, or the name of another average
        device: as cuda; the CPU by default
        batch_size: images at a time
        columns: of the grid; a square by default
        interpolate: two seeds or more, whose images turn into each other
        trajectory: draw states of the solver on the way from noise, a row each
        frames: images from one end to the other; 9 in a grid, 30 in an animation by default

    Raises:
        FlowlitError: before any work, for options that contradict each other or do not fit, and files there.
    """
    request = Request(num, seed, seeds, labels, prompt, interpolate, trajectory, frames, columns)
    request.check(into)
    generator = request.generator(checkpoint, weights, solver, nfe, device)
    yield f"{checkpoint}: {generator!r}"
    yield written(into, generator, request, batch_size)
