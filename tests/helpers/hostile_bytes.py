"""Bytes and JSON values that no reader expects, and the bounds of memory in which it must refuse them.

@given(mutated(GOOD))
@bounded
def test_any_bytes_give_a_result_or_one_clear_error(data): ends_well(lambda: read(data))
"""

from __future__ import annotations

import copy
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from flowlit.errors import FlowlitError

bounded = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Settings of tests with hostile bytes: always the same examples, a second or two in all."""


def nested(depth: int) -> Any:
    """Return lists inside each other."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2.5,
    -1e300,
    10**12,
    2**63,
    10**30,
    "",
    "3",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "a\0b",
    "\u202e×" * 50,
    [],
    [[]],
    [None],
    [-1],
    [10**9, 10**9, 10**9],
    ["a"],
    {},
    {"": None},
    {"a": {"a": []}},
    nested(100),
]
"""Values to put where others are expected."""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=8,
)
"""Any JSON value."""


def ends_well(attempt: Callable[[], Any]) -> Any:
    """Return the result, or the text of the ``FlowlitError``; any other exception fails the test."""
    try:
        return attempt()
    except FlowlitError as error:
        assert 0 < len(str(error)) < 1500, str(error)
        str(error).encode()  # it can be printed
        return str(error)


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Return any bytes, and good ones that were flipped, cut off, lost a piece or took one in."""
    place = st.integers(0, len(good))

    def flipped(at: int, bits: int) -> bytes:
        at = min(at, len(good) - 1)
        return good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :]

    return st.one_of(
        st.binary(max_size=200),
        st.builds(flipped, place, st.integers(1, 255)),
        st.builds(lambda at: good[:at], place),
        st.builds(lambda at, gap: good[:at] + good[at + gap :], place, st.integers(1, 100)),
        st.builds(lambda at, more: good[:at] + more + good[at:], place, st.binary(min_size=1, max_size=100)),
    )


def places(value: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each entry in nested mappings and lists, ``()`` for the value itself first."""
    yield inside
    if not isinstance(value, (dict, list)):
        return
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(entry, (*inside, key))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    """Return a copy with another value at a place."""
    if not place:
        return by
    value = copy.deepcopy(value)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = by
    return value


def without(value: Any, place: tuple[Any, ...]) -> Any:
    """Return a copy without the entry at a place."""
    value = copy.deepcopy(value)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    del parent[place[-1]]
    return value


def altered(good: Any) -> st.SearchStrategy[Any]:
    """Return good JSON values with one entry replaced by anything, or without it; and any others."""
    everywhere = list(places(good))
    somewhere = st.sampled_from(everywhere)
    return st.one_of(
        JSON,
        st.builds(lambda place, by: replaced(good, place, by), somewhere, st.sampled_from(VALUES) | JSON),
        st.builds(lambda place: without(good, place), st.sampled_from(everywhere[1:])),
    )


def as_json(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value).encode()


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Let this process have so much more memory than now, inside; beyond that is a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * (1 << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
