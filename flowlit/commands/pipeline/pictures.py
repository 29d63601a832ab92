"""Variables of a recipe that follow from its images: channels and classes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...errors import FlowlitError

if TYPE_CHECKING:
    from .headers import Headers

AUTO = ("channels", "classes")
"""Variables that the images decide where their value is auto."""

FEWEST = 5
"""Images of each class: with fewer, sub-folders are taken for an order of another kind."""

MOST = 1000
"""Classes."""

STEP = 8
"""Pixels that a resolution is a multiple of: networks halve it up to three times."""

SHOWN = 6
"""Names of classes that the line has."""


def from_images(variables: dict[str, Any], recipe: str, anyway: bool) -> tuple[dict[str, Any], str]:
    """Return variables with the values that the images decide, and a line on the images.

    Classes become their number, 0 for none; ``labels`` goes with it. A recipe that leaves neither channels
    nor classes to the images, as it has their numbers, looks at none. To look at a recipe ``anyway``, without
    its images, these are taken to be coloured, without classes.

    Raises:
        FlowlitError: if there are no images, or a value is none of those that are possible.
    """
    if "images" not in variables or not any(isinstance(variables.get(name), str) for name in AUTO):
        return variables, ""
    from .headers import read_headers
    from .variables import found

    place = found(str(variables["images"]), recipe) if variables["images"] else "''"
    resolution = variables.get("resolution", STEP)
    if type(resolution) is not int or resolution % STEP or not STEP <= resolution <= 1024:
        raise FlowlitError(f"vars.resolution is {resolution!r}; expected a multiple of {STEP}, up to 1024")
    held_out = variables.get("held_out")
    if held_out is not None and (type(held_out) not in (int, float) or not 0 <= held_out < 1):
        raise FlowlitError(f"vars.held_out is {held_out!r}; expected a number from 0 on, below 1")
    if not os.path.exists(place) and anyway:
        shape = [3, resolution, resolution]
        return variables | {"channels": 3, "shape": shape, "classes": 0, "labels": False}, ""
    if not os.path.exists(place):
        raise FlowlitError(
            f"{place} does not exist; name your own images, a folder or a zip: --vars.images FOLDER"
        )
    headers = read_headers(place)
    names, reason = _classes(headers.classes, variables.get("classes", "none"))
    channels = variables.get("channels", "auto")
    if channels == "auto":
        channels = 1 if headers.grey else 3
    if str(channels) not in ("1", "3"):
        raise FlowlitError(f"vars.channels is {channels!r}; expected auto, 1 or 3")
    shape = [int(channels), resolution, resolution]
    decided = {"images": place, "channels": int(channels), "shape": shape}
    decided |= {"classes": len(names), "labels": bool(names)}
    facts = [f"{place}: {_in_words(headers, resolution)}", *["grey"] * (int(channels) == 1)]
    if headers.transparent:
        facts.append(f"{headers.transparent:,} with transparency over white")
    facts.append(reason)
    if held_out is not None:
        facts.append(f"{held_out:.0%} held out")
    return variables | decided, "; ".join(facts)


def _in_words(headers: Headers, resolution: int) -> str:
    """Return the number and the sizes of images, and what becomes of them."""
    sizes = f"{headers.smallest}–{headers.largest}"
    size = sizes if headers.smallest < headers.largest else f"{headers.largest}"
    small = headers.smaller_than(resolution)
    enlarged = f" ({small:,} enlarged)" if small else ""
    return f"{headers.count:,} images, {size} px, fitted to {resolution}×{resolution}{enlarged}"


def _classes(counts: dict[str, int], wish: str) -> tuple[list[str], str]:
    """Return the names of the classes to take, none of which lacks images, and the words for it."""
    names = list(counts)
    if wish not in ("auto", "none", "folders"):
        raise FlowlitError(f"vars.classes is {wish!r}; expected auto, folders or none")
    if wish == "none" or not names:
        if wish == "folders":
            raise FlowlitError("vars.classes is folders, but not all images lie in sub-folders, one a class")
        return [], "no classes"
    fewest = min(counts, key=lambda name: counts[name])
    lacking = counts[fewest] < (1 if wish == "folders" else FEWEST)
    if wish == "folders" and lacking:
        raise FlowlitError(f"vars.classes is folders, but {fewest!r} holds no images; remove it")
    if wish == "auto" and (lacking or not 1 < len(names) <= MOST):
        why = f"{fewest} has {counts[fewest]:,} images" if lacking else f"{len(names):,} sub-folders"
        return [], f"no classes ({why}; --vars.classes folders takes them)"
    more = f", … {len(names)} in all" if len(names) > SHOWN else ""
    return names, f"{len(names)} classes: {', '.join(names[:SHOWN])}{more}"
