"""Checks of a set of images before it is used: every image is decoded once, and their sizes are compared.

What was found about a set is kept, so that it is decoded again only after a file has changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import IO, NamedTuple

import msgspec
from PIL import Image

from .._support.schema import Count, Format, Positive
from ..errors import FlowlitError
from .decode import CHANGES, FORMATS, OtherSize, UnreadableImage, load
from .long_work import Kept, each

_NAMED = 3
"""Broken images that an error names."""


class Size(msgspec.Struct):
    """Images of one width and height, in pixels."""

    width: Positive
    height: Positive
    count: Positive
    first: str


class Survey(msgspec.Struct):
    """Counts of what the images of a set are, by format, by mode, and by what decoding does to them."""

    format: str
    version: int
    formats: dict[str, Count]
    modes: dict[str, Count]
    changes: dict[str, Count]
    sizes: list[Size]


_KEPT = Kept(Format(Survey, "record of checked images", "remove it", "flowlit-checked-images"), ".json")


class Facts(NamedTuple):
    """Facts of one file."""

    format: str
    mode: str
    size: tuple[int, int]
    changes: tuple[str, ...]


def survey(
    source: str,
    count: int,
    key: str,
    where: Callable[[int], str],
    opened: Callable[[int], IO[bytes]],
    resolution: int | None = None,
    any_size: bool = False,
) -> Survey:
    """Decode each image of a set once, or return what an earlier survey of the same files has found.

    Args:
        source: the set, in words.
        count: of its images.
        key: changes if a file does.
        where: name of image i.
        opened: file of image i; raises ``UnreadableImage`` or OSError.
        resolution: expected width and height in pixels; None takes any that all images share.
        any_size: images need not be of one size.

    Raises:
        FlowlitError: saying how many images are broken or of another size, and naming the first.
    """

    def find() -> Survey:
        facts = _survey(source, count, where, opened, resolution)
        if not any_size:
            _check_sizes(source, facts, resolution)  # of others only headers were read: nothing to keep
        return facts

    facts = _KEPT.get(key, find)
    if not any_size:
        _check_sizes(source, facts, resolution)
    return facts


def _check_sizes(source: str, facts: Survey, resolution: int | None) -> None:
    """Refuse images of different sizes, or of another size than expected, and name one of them."""
    right = max(facts.sizes, key=lambda size: size.count)
    wrong = [size for size in facts.sizes if size is not right]
    expected = f"{right.first} {right.width}×{right.height}"
    if resolution is not None:
        wrong = [size for size in facts.sizes if (size.width, size.height) != (resolution, resolution)]
        expected = f"expected {resolution}×{resolution}"
    if not wrong:
        return
    odd = wrong[0]
    total = sum(size.count for size in facts.sizes)
    others = sum(size.count for size in wrong)
    counts = f" ({others:,} of {total:,} images are of another size)" if others > 1 else ""
    raise FlowlitError(
        f"{odd.first} is {odd.width}×{odd.height} pixels, {expected}{counts}; resize the images first: "
        f"flowlit images {source} --resolution {resolution or min(right.width, right.height)} --into "
        "images.zip"
    )


def decisive(facts: Survey, background: str, fit: str | None) -> list[str]:
    """Return what changes pixels besides the files, for a fingerprint; nothing for plain images."""
    over = [f"over {background}"] if "transparent" in facts.changes else []
    deep = ["16 bits"] if any(mode.startswith("I;16") for mode in facts.modes) else []
    turned = ["turned"] if "turned" in facts.changes else []
    return over + deep + turned + ([f"fit {fit}"] if fit else [])


def in_words(facts: Survey, background: str) -> str:
    """Return what decoding does to some of the images; empty if it does nothing."""
    changes = [
        f"{facts.changes[name]:,} {words.format(background=background)}"
        for name, words in CHANGES.items()
        if name in facts.changes
    ]
    return ", ".join(changes)


def examine(file: IO[bytes], resolution: int | None = None) -> Facts:
    try:
        image = load(file, resolution)
    except OtherSize as error:
        return Facts("", "", error.size, ())  # its set is refused
    if image.format == "PNG":  # its checksums, which decoding does not look at
        file.seek(0)
        try:
            Image.open(file, formats=FORMATS).verify()
        except Exception as error:  # as in ``load``
            raise UnreadableImage(str(error) or type(error).__name__) from error
    return Facts(image.format, image.mode, image.image.size, image.changes)


def _survey(
    source: str,
    count: int,
    where: Callable[[int], str],
    opened: Callable[[int], IO[bytes]],
    resolution: int | None,
) -> Survey:
    def outcome(index: int) -> Facts | UnreadableImage:
        try:
            with opened(index) as file:
                return examine(file, resolution)
        except UnreadableImage as error:
            return error
        except OSError as error:
            return UnreadableImage(str(error))

    formats: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    sizes: dict[tuple[int, int], Size] = {}
    broken: dict[int, UnreadableImage] = {}
    for index, facts in enumerate(each(count, outcome, "Checking images")):
        if isinstance(facts, UnreadableImage):
            broken[index] = facts
            continue
        formats[facts.format] += 1
        modes[facts.mode] += 1
        changes.update(facts.changes)
        if facts.size not in sizes:
            sizes[facts.size] = Size(*facts.size, 0, where(index))
        sizes[facts.size].count += 1
    if broken:
        raise refusal(source, count, {where(index): error for index, error in broken.items()})
    return Survey("flowlit-checked-images", 1, dict(formats), dict(modes), dict(changes), [*sizes.values()])


def refusal(source: str, count: int, broken: dict[str, UnreadableImage]) -> FlowlitError:
    """Return the error for images of a set, by their names, that cannot be read."""
    if len(broken) == 1:
        [(name, error)] = broken.items()
        return FlowlitError(f"{name} is not a readable image ({error}); replace or remove it")
    named = ", ".join(f"{name} ({broken[name]})" for name in list(broken)[:_NAMED])
    more = f" and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return FlowlitError(
        f"{source}: {len(broken):,} of {count:,} images are not readable: {named}{more}; replace or remove "
        "them"
    )
