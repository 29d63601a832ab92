"""Noise by number: of a seed and an index, or of several seeds."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._support.files import short_hash
from .._support.formatting import size
from .._support.machine import free_memory
from .._support.nested import rows_of
from ..couplings.noise import GENERATOR, SEEDS, SeededNoise, seeded_normals
from ..errors import FlowlitError
from ..paths import interpolate_noise
from ..types import Noise, Source
from .core import NoiseToImages
from .inputs import check_kind, whole_number
from .labels import check_number, each_label, labelled, labels_of
from .prompts import checked_prompts, prompted


class Rows(NamedTuple):
    """Rows to generate from: how many, their shape, how to draw some of them, and what decides about each."""

    num: int
    shape: tuple[int, ...]
    batch: Callable[[range], Noise]
    identity: dict[str, Any] = {}
    seeds: Sequence[int] | None = None


def checked_seeds(seeds: Any, shape: Sequence[int], what: str = "noise", itemsize: int = 4) -> list[int]:
    """Return seeds as a list: of a sequence, or of one number.

    Args:
        seeds: of a caller.
        shape: of what there will be of each.
        what: its name.
        itemsize: bytes of a number of it.

    Raises:
        FlowlitError: for anything but whole numbers from 0 to 2^64 - 1, for none, and for more than memory
            can hold.
    """
    single = isinstance(seeds, int) or getattr(seeds, "ndim", 1) == 0
    many = isinstance(seeds, (Sequence, np.ndarray, Tensor)) and not isinstance(seeds, (str, bytes))
    if not single and not (many and len(seeds)):
        raise FlowlitError(f"seeds are {reprlib.repr(seeds)}; expected whole numbers from 0 on, as [1, 2, 3]")
    if not single:
        check_memory(len(seeds), shape, what, itemsize)
    return [whole_number(seed, "a seed", 0, SEEDS - 1) for seed in ([seeds] if single else seeds)]


def noise_of(generator: NoiseToImages, seeds: Any) -> Tensor:
    """Return noise (B, c, h, w) for a generator: row 0 of each seed.

    Raises:
        FlowlitError: as ``checked_seeds``; if the shape is not known, or the memory cannot hold so much.
    """
    shape = noise_shape(generator)
    numbers = checked_seeds(seeds, shape)
    return seeded_normals(numbers, [0] * len(numbers), shape)


def rows_of_seeds(generator: NoiseToImages, seeds: Any, labels: Any) -> Rows:
    """Return row 0 of each seed; its class is the seed modulo the number of classes, unless it is given.

    Raises:
        FlowlitError: for seeds and labels that are none, and if the shape is not known.
    """
    shape = noise_shape(generator)
    numbers = checked_seeds(seeds, shape, "images", 1)
    num = len(numbers)
    classes = [seed % generator.num_classes for seed in numbers] if generator.num_classes else None
    law = "by seed" if generator.num_classes else "none"
    if labels is not None:
        classes = each_label(labels, num, generator.num_classes or 0, generator.class_names)
        law = f"given, {short_hash(classes)}"

    def batch(rows: range) -> Noise:
        cond = {} if classes is None else {"label": torch.tensor([classes[i] for i in rows])}
        x0 = seeded_normals([numbers[i] for i in rows], [0] * len(rows), shape)
        return Noise(torch.tensor(rows), x0, cond)

    facts = {"generator": GENERATOR, "seeds": short_hash(numbers), "shape": list(shape), "labels": law}
    return Rows(num, shape, batch, facts, numbers)


def rows_of_seed(generator: NoiseToImages, num: int, seed: int, labels: Any) -> Rows:
    """Return rows 0 … num - 1 of a seed, with classes balanced by index unless they are given.

    Raises:
        FlowlitError: for labels that are no classes, and if the shape is not known.
    """
    shape = noise_shape(generator)
    classes = generator.num_classes or 0
    if labels is not None:
        labels = labels_of(labels, classes, generator.class_names)
    if isinstance(labels, list):
        check_number(labels, num)
    noise = SeededNoise(shape, num, seed, classes, labels)
    return Rows(num, shape, noise.batch, noise.identity())


def rows_of_source(source: Source, num: int, seed: int, labels: Any) -> Rows:
    """Return the first rows of a source, with the draws of a seed.

    Raises:
        FlowlitError: if it is none, and for labels, which a source has of its own.
    """
    check_kind(source, "source", Source)
    if labels is not None:
        raise FlowlitError("label is for noise of the network's own; a source brings its labels")
    source = source.reseeded(seed).first(num)
    return Rows(num, tuple(source.shape), lambda rows: source.batch(list(rows)))


def rows_to_sample(
    generator: NoiseToImages, num: Any, seed: Any, source: Any, labels: Any, seeds: Any, prompts: Any = None
) -> Rows:
    """Return the rows that arguments of ``Generator.sample`` mean.

    Raises:
        FlowlitError: for those that are out of range, or contradict each other.
    """
    if seeds is not None:
        if num is not None or source is not None:
            raise FlowlitError("seeds are given, so that num and source have no meaning; leave them out")
        return prompted(generator, rows_of_seeds(generator, seeds, labels), prompts)
    if num is None:
        raise FlowlitError("num is None; expected a whole number from 1 on, or seeds=[1, 2, 3]")
    num = whole_number(num, "num", 1)
    seed = whole_number(seed, "seed", 0, SEEDS - 1)
    if source is None:
        return prompted(generator, rows_of_seed(generator, num, seed, labels), prompts)
    if prompts is not None:
        raise FlowlitError("prompts are for noise of the network's own; a source brings its texts")
    return rows_of_source(source, num, seed, labels)


def rows_between(generator: NoiseToImages, seeds: Any, steps: int, labels: Any, prompts: Any = None) -> Rows:
    """Return rows on the way from seed to seed, ``steps`` for each two, of the class of the first seed.

    Raises:
        FlowlitError: for fewer than two seeds, labels that are no classes, and several prompts.
    """
    shape = noise_shape(generator)
    numbers = checked_seeds(seeds, shape)
    if len(numbers) < 2:
        raise FlowlitError(f"seeds are {reprlib.repr(seeds)}; expected two or more to go between")
    if prompts is not None and len(checked_prompts(prompts)) > 1:
        raise FlowlitError(f"prompts are {reprlib.repr(prompts)}; expected one, of all images on the way")
    check_memory((len(numbers) - 1) * (steps - 1) + 1, shape, "noise", 4)
    ends = noise_of(generator, numbers)
    alpha = torch.arange(steps - 1) / (steps - 1)
    ways = [interpolate_noise(a[None], b[None], alpha) for a, b in itertools.pairwise(ends)]
    x0 = torch.cat([*ways, ends[-1:]])
    classes = generator.num_classes or 0
    if labels is None and classes:
        labels = numbers[0] % classes
    cond = labelled({}, labels, len(x0), classes, generator.class_names)
    noise = Noise(torch.arange(len(x0)), x0, cond)
    rows = Rows(len(x0), shape, lambda part: rows_of(noise, torch.tensor(part)))
    return prompted(generator, rows, prompts)


def generated(generator: NoiseToImages, rows: Rows, batch_size: int = 256) -> Tensor:
    """Return the images of rows, uint8 (N, C, H, W) in main memory.

    Raises:
        FlowlitError: if that cannot hold so many.
    """
    batch_size = min(rows.num, batch_size)
    check_memory(rows.num, rows.shape, "images")
    check_memory(batch_size, rows.shape, "noise of a batch", 4)
    images = torch.empty(0, dtype=torch.uint8)
    for first in range(0, rows.num, batch_size):
        noise = rows.batch(range(first, min(rows.num, first + batch_size)))
        batch = generator(noise.x0, noise.cond).cpu()
        if not first:
            check_memory(rows.num, batch.shape[1:], "images")
            images = batch.new_empty(rows.num, *batch.shape[1:])
        images[first : first + len(batch)] = batch
    return images


def noise_shape(generator: NoiseToImages) -> tuple[int, ...]:
    """Return the shape of a generator's noise.

    Raises:
        FlowlitError: if it is not known.
    """
    if generator.shape is None:
        raise FlowlitError(
            "the network has no attribute `shape`; give the generator shape=(c, h, w), or call it with noise "
            "of your own"
        )
    return generator.shape


def check_memory(images: int, shape: Sequence[int], what: str, itemsize: int = 1) -> None:
    """Refuse images (or noise) of a shape that the main memory cannot hold, before any is made.

    Raises:
        FlowlitError: with the bytes that they need and those that are free.
    """
    needed = images * math.prod(shape) * itemsize
    free = free_memory(torch.device("cpu"))
    if needed > free:
        raise FlowlitError(
            f"{what}: {images:,} of shape {tuple(shape)} need {size(needed)} of memory, and {size(free)} are "
            "free; make fewer at a time, or write them to the disk: flowlit sample"
        )
