"""A part of a set of images, chosen by what is in each: it stays where it is when others are added."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from ..errors import FlowlitError

Part = Literal["all", "train", "held_out"]

_UNIT = 1 << 64


def chosen(checksums: Sequence[int], part: Part, share: float, where: str) -> list[int]:
    """Return the indices of the images of a part, in order; equal files are in the same one.

    Args:
        checksums: CRC-32 of each file.
        part: "held_out" has about a share of all, and at least one; "train" has the others.
        share: that is held out, in [0, 1].
        where: the images are, for an error.

    Raises:
        FlowlitError: if no image is left for the part.
    """
    if part == "all":
        return list(range(len(checksums)))
    places = [_place(checksum) for checksum in checksums]
    limit = max(share * _UNIT, min(places, default=0) + 1)
    indices = [i for i, place in enumerate(places) if (place < limit) == (part == "held_out")]
    if not indices:
        raise FlowlitError(
            f"{where}: of {len(checksums)} images, {share:g} held out, none is left for part: {part}; add "
            "images, or use part: all"
        )
    return indices


def facts_of(part: Part, share: float) -> list[str]:
    """Return what is read of a set, for its fingerprint; nothing for all of it."""
    return [] if part == "all" else [f"{part}, {share:g} held out"]


def _place(checksum: int) -> int:
    """Return a number below 2^64 that looks random, but depends on a file's content alone."""
    return int.from_bytes(hashlib.sha256(checksum.to_bytes(4, "big")).digest()[:8], "big")
