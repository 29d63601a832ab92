"""The request of ``flowlit sample``: seeds, classes, and the generator that turns them into images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FlowlitError
from .outputs import check_target
from .solver import load_with

if TYPE_CHECKING:
    from ...generators import Generator
    from ...generators.sampling import Rows

MOST = 10_000_000
"""Seeds that are listed, at most."""

FEW = 8
"""Rows of a trajectory, by default."""

MANY = 64
"""Images, by default."""

STILL = 9
"""Frames in a row of a grid, by default."""

ANIMATED = 30
"""Frames of an animation, by default."""


@dataclass
class Request:
    """Options of ``flowlit sample`` that say which images; see there."""

    num: int | None
    seed: int | None
    seeds: list[str]
    labels: list[str]
    prompt: list[str]
    interpolate: list[str]
    trajectory: bool
    frames: int | None
    columns: int | None

    @property
    def moves(self) -> bool:
        """Return whether the result may be an animation."""
        return self.trajectory or bool(self.interpolate)

    def check(self, into: Path) -> None:
        """Refuse options that contradict each other, words that are no seeds, and targets that are taken.

        Raises:
            FlowlitError: naming both, or the word.
        """
        numbered = {"--num": self.num, "--seed": self.seed}
        given = [name for name, value in numbered.items() if value is not None]
        if self.interpolate and len(self.prompt) > 1:
            raise FlowlitError("--interpolate has one prompt for all; leave the others out")
        several = self.seeds or self.interpolate
        name = "--seeds" if self.seeds else "--interpolate"
        if several and given:
            raise FlowlitError(f"{name} and {given[0]} are both given; {name} has its seeds, leave one out")
        if self.interpolate and (self.seeds or self.trajectory):
            other = "--seeds" if self.seeds else "--trajectory"
            raise FlowlitError(f"--interpolate and {other} are both given; leave one out")
        if self.interpolate and len(numbers_of(self.interpolate, "--interpolate")) < 2:
            raise FlowlitError("--interpolate has one seed; expected two or more")
        numbers_of(self.seeds, "--seeds")
        if self.frames is not None and not self.moves:
            raise FlowlitError("--frames is for --interpolate and --trajectory; leave it out, or add one")
        if self.frames == 1:
            raise FlowlitError("--frames is 1; expected 2 or more, both ends among them")
        rows = self.trajectory and into.suffix == ".png"
        if self.columns is not None and (rows or (into.suffix in (".zip", ".npz", "") and not into.is_dir())):
            raise FlowlitError(f"--columns is for a grid; --into {into} has none of its own, leave it out")
        check_target(into, self.moves)

    def generator(
        self, checkpoint: str, weights: str, solver: str | None, nfe: int | None, device: str | None
    ) -> Generator:
        """Return the generator of a checkpoint, whose solver takes ``nfe`` evaluations.

        Raises:
            FlowlitError: as ``flowlit.load``; for generators that read more than noise and classes, and
                numbers of evaluations that the solver cannot have.
        """
        from ..._support.velocities import OWN_CONDITIONS
        from ...types import reads_of

        generator = load_with(checkpoint, weights, solver, nfe, device)
        others = sorted((reads_of(generator.network) or frozenset()) - OWN_CONDITIONS - {"text"})
        if "image" in others:
            raise FlowlitError(
                f"{checkpoint} enlarges images, and needs one to begin with; use flowlit upscale my_photos "
                f"--model {checkpoint} --into large"
            )
        if others:
            raise FlowlitError(
                f"{checkpoint} reads {', '.join(others)}, which no option gives; in Python: generator(noise, "
                f'{{"{others[0]}": …}})'
            )
        return generator

    def steps(self, animated: bool) -> int:
        """Return the images from one end to the other."""
        return self.frames or (ANIMATED if animated else STILL)

    def rows(self, generator: Generator, steps: int) -> Rows:
        """Return the noise and classes that are to be generated from.

        Args:
            generator: of the images.
            steps: images from seed to seed, where these are turned into each other.

        Raises:
            FlowlitError: for classes that it does not have.
        """
        from ...generators.sampling import rows_between, rows_to_sample

        labels = labels_of(self.labels, generator)
        texts = self.prompt or None
        if self.interpolate:
            return rows_between(
                generator, numbers_of(self.interpolate, "--interpolate"), steps, labels, texts
            )
        if self.seeds:
            numbers = numbers_of(self.seeds, "--seeds")
            return rows_to_sample(generator, None, 0, None, labels, numbers, texts)
        given = max(len(self.labels), len(self.prompt))
        count = FEW if self.trajectory else MANY
        num = self.num or (given if given > 1 else count)
        return rows_to_sample(generator, num, self.seed or 0, None, labels, None, texts)


def numbers_of(words: Sequence[str], option: str) -> list[int]:
    """Return the seeds that words mean: numbers, and ranges with both ends.

    >>> numbers_of(["7", "1-3"], "--seeds")
    [7, 1, 2, 3]

    Raises:
        FlowlitError: naming the first word that is neither, and for too many.
    """
    ranges = []
    for word in words:
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", word, re.ASCII)
        ends = [] if match is None else [int(match[1]), int(match[2] or match[1])]
        if not ends or ends[0] > ends[1] or ends[1] >= 1 << 64:
            raise FlowlitError(
                f"{option} {word!r:.60}: expected whole numbers from 0 to 2^64 - 1, or ranges, as 7 10-19"
            )
        ranges.append(range(ends[0], ends[1] + 1))
    total = sum(each.stop - each.start for each in ranges)
    if total > MOST:
        raise FlowlitError(
            f"{option} has {total:,} seeds; expected {MOST:,} at most, or use --num and --seed"
        )
    return [number for each in ranges for number in each]


def labels_of(words: Sequence[str], generator: Generator) -> Any:
    """Return the classes that words mean: names where the generator has these, else numbers."""
    from ...data.classes import spelt

    names = {spelt(name) for name in generator.class_names or ()}
    labels = [
        int(word) if spelt(word) not in names and re.fullmatch(r"[+-]?\d{1,18}", word, re.ASCII) else word
        for word in words
    ]
    if not labels:
        return None
    return labels[0] if len(labels) == 1 else labels
