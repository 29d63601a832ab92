"""The fields of a manifest, and of the facts in a shard: types, ranges, and what may not contradict.

Read without torch, like ``manifest.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..._support.schema import Count, Format, Positive, Seed, TrainedOn
from ...errors import FlowlitError
from .plan import plan

FORMAT = "flowlit-couplings"
VERSION = 2
DIRECTION = "x0 is noise (t = 0), x1 is data (t = 1)"

TENSORS = ("x0", "x1", "index", "label", "probe", "path", "times")
"""Names in a shard that have a meaning of their own."""

MOST_STATES = 1024
"""Of a trajectory in a store."""

BYTES = {"float32": 4, "float16": 2, "uint8": 1, "seed": 0}
"""Of an entry of x0 or x1, by how it is stored."""

Dtype = Literal["float64", "float32", "float16", "uint8", "int64", "int32", "bool"]
Sizes = Annotated[list[Positive], Meta(max_length=8)]
NonNegative = Annotated[float, Meta(ge=0)]
Interval = tuple[float, float]
Checksum = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"\A[0-9]{5,6}\.safetensors\Z")]


class Evaluations(Struct):
    """Network evaluations of the rows of a shard."""

    sum: Count
    min: Count
    max: Count


class Rounding(Struct):
    """Change of an end by storing it."""

    squares: NonNegative
    max: NonNegative
    entries: Positive


class RoundedEnds(Struct):
    """Likewise, of both ends, and of the states before x1 where they are stored."""

    x0: Rounding
    x1: Rounding
    path: Rounding | None = None


class ShardFacts(Struct):
    """Facts in the header of a shard."""

    rows: Positive
    seed: Seed
    index: tuple[Count, Count]
    nfe: Evaluations
    range: Interval
    rounding: RoundedEnds
    of: str | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        first, last = self.index
        if last - first + 1 < self.rows:
            raise ValueError(f"{self.rows} rows have the indices {first} … {last}; expected unique ones")
        if self.nfe.min > self.nfe.max or self.range[0] > self.range[1]:
            raise ValueError("nfe or range has a minimum above its maximum")
        if not self.rows * self.nfe.min <= self.nfe.sum <= self.rows * self.nfe.max:
            raise ValueError(f"nfe has the sum {self.nfe.sum}, which its minimum and maximum do not allow")


class Entry(ShardFacts, kw_only=True):
    """A shard as the manifest lists it."""

    file: FileName
    bytes: Positive
    sha256: Checksum


class Labels(Struct):
    """Classes of the rows."""

    num_classes: Positive
    law: str
    sha256: dict[str, str] | None = None


class PromptFacts(Struct):
    """Prompts of a noise, all of them."""

    number: Positive
    sha256: Checksum


class NoiseFacts(Struct):
    """The part of a noise's identity that is read again."""

    generator: str | None = None
    standard_normal: bool = True
    prompts: PromptFacts | None = None


class MeanEvaluations(Struct):
    """Network evaluations of all rows."""

    mean: NonNegative
    min: Count
    max: Count

    def __post_init__(self) -> None:
        slack = 1e-6 * self.max  # of a rounded mean
        if not self.min - slack <= self.mean <= self.max + slack:
            raise ValueError(f"nfe has the mean {self.mean:g}; expected one from {self.min} to {self.max}")


class Error(Struct):
    """Change of an end by storing it, over all rows."""

    rms: NonNegative
    max: NonNegative


class EndErrors(Struct):
    """Likewise, of both ends, and of the states before x1."""

    x0: Error
    x1: Error
    path: Error | None = None


class Manifest(Struct):
    """Description of a store; see docs/couplings.md."""

    format: str
    direction: str
    origin: str
    shape: Annotated[list[Positive], Meta(min_length=1, max_length=8)]
    x0: Literal["float32", "float16", "seed"]
    x1: Literal["float32", "float16", "uint8"]
    labels: Labels | None
    noise: NoiseFacts
    images: dict[str, Any] | None
    teacher: dict[str, Any] | None
    solver: dict[str, Any] | None
    shard_size: Positive
    seeds: list[Seed]
    counts: Annotated[list[Positive], Meta(min_length=1)]
    shards: list[Entry]
    complete: bool
    flowlit: str
    codec: dict[str, Any] | None = None
    classes: list[str] | None = None
    data: TrainedOn | None = None
    conditions: dict[str, tuple[Dtype, Sizes]] = {}
    count: Positive | None = None
    nfe: MeanEvaluations | None = None
    range: Interval | None = None
    rounding: EndErrors | None = None
    times: Annotated[list[float], Meta(min_length=2, max_length=MOST_STATES)] | None = None

    def __post_init__(self) -> None:
        if self.direction != DIRECTION:
            raise ValueError(f"the direction of the pairs is {self.direction!r}; expected {DIRECTION!r}")
        if unfit := unfit_conditions(self.conditions):
            raise ValueError(unfit)
        if any(end <= begin for begin, end in itertools.pairwise(self.counts)):
            raise ValueError(f"counts are {self.counts[:9]}; expected ascending ones")
        if self.range and self.range[0] > self.range[1]:
            raise ValueError(f"range is {list(self.range)}; expected the minimum first")
        if self.classes is not None and len(set(self.classes)) != max(1, len(self.classes)):
            raise ValueError(f"classes are {self.classes[:9]}; expected names that differ")
        if self.codec and not {"class", "class_path"} & self.codec.keys():
            raise ValueError("codec has no class; expected class_path, or class")
        if any(seed >= 1 << 128 for seed in self.seeds):
            raise ValueError("seeds are not all below 2^128")
        if self.times and unfit_times(self.times):
            raise ValueError(f"times are {self.times[:9]}; expected increasing ones above 0, the last 1")
        if self.complete and (
            not (self.nfe and self.range and self.rounding) or self.count != self.counts[-1]
        ):
            raise ValueError(f"it is complete; expected count {self.counts[-1]}, nfe, range and rounding")
        self._check_shards()

    def _check_shards(self) -> None:
        """Refuse shards that are not of these counts, seeds and sizes."""
        try:
            rows = {shard.file: shard.rows for shard in plan(self.counts, self.shard_size)}
        except FlowlitError as error:
            raise ValueError(str(error)) from error
        entries = math.prod(self.shape)
        pair = entries * (BYTES[self.x0] + BYTES[self.x1] * len(self.times or [1]))
        seeds = set(self.seeds)
        for entry in self.shards:
            if rows.pop(entry.file, None) != entry.rows:
                raise ValueError(
                    f"{entry.file} is listed with {entry.rows} rows; expected each shard of "
                    f"{self.counts[-1]} pairs, {self.shard_size} a file, once"
                )
            if entry.seed not in seeds:
                raise ValueError(f"the seed of {entry.file} is not among seeds")
            if (entry.rounding.path is None) != (self.times is None):
                raise ValueError(
                    f"{entry.file} and the manifest differ in whether there are states before x1"
                )
            if entry.bytes < entry.rows * pair or entry.rounding.x1.entries != entries:
                raise ValueError(
                    f"{entry.file} has {entry.bytes:,} bytes, {entry.rounding.x1.entries:,} entries a row; "
                    f"expected {entry.rows:,} rows of shape {self.shape}"
                )


def unfit_times(times: Sequence[float]) -> bool:
    """Return whether times of states, of which x1 is the last, do not increase from above 0 to 1."""
    return times[-1] != 1 or not all(a < b for a, b in itertools.pairwise([0, *times]))


def unfit_conditions(names: Iterable[str]) -> str:
    """Return what is wrong with names of conditions; '' if they can be those of tensors and files.

    >>> unfit_conditions(["lr", "index"]).partition(";")[0]
    "conditions ['index']"
    """
    unfit = [name for name in names if not name.isidentifier() or name in TENSORS]
    if not unfit:
        return ""
    return f"conditions {unfit}; expected names of letters, digits and _, other than {', '.join(TENSORS)}"


MANIFEST = Format(
    Manifest, "manifest of couplings", "make the couplings again", FORMAT, (VERSION, VERSION), 64 << 20
)


SHARD_FACTS = Format(ShardFacts, "description of a shard", "make it again")
