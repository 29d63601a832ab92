"""JSON files are sound, or refused in one line: any bytes, any value, in bounded memory."""

import json
import os
from typing import Annotated

import msgspec
import pytest
from hostile_bytes import JSON, VALUES, altered, as_json, bounded, ends_well, memory_limit, mutated, nested
from hypothesis import given
from matrix import few
from msgspec import Meta

from flowlit._support.schema import DEPTH, MANY, Count, Format, Seed, parse_json
from flowlit.errors import FlowlitError


class Part(msgspec.Struct):
    rows: Count
    seed: Seed = 0


class Whole(msgspec.Struct):
    name: str
    share: Annotated[float, Meta(gt=0, lt=1)]
    parts: list[Part] = []
    notes: dict[str, str] = {}

    def __post_init__(self):
        if len(self.parts) > 3:
            raise ValueError("expected at most 3 parts")


FORMAT = Format(Whole, "recipe", "cook again", name="flowlit-recipe", versions=(2, 3), limit=10_000)
PLAIN = Format(Whole, "recipe", "cook again")
GOOD = {
    "format": "flowlit-recipe",
    "version": 3,
    "name": "a",
    "share": 0.5,
    "parts": [{"rows": 3, "seed": 2**70}],
}


def test_a_sound_file_is_read_with_fields_of_other_versions(tmp_path):
    path = tmp_path / "recipe.json"
    for version in (2, 3):
        content = {**GOOD, "version": version, "later": {"more": [1]}}
        path.write_bytes(as_json(content))
        assert FORMAT.read(path) == content
    assert FORMAT.check(GOOD, path) == Whole("a", 0.5, [Part(3, 2**70)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 4}, ["version 4", "newer flowlit", "reads flowlit-recipe version 3", "install"]),
        ({"version": 10**30}, ["newer flowlit"]),
        ({"version": 1}, ["version 1", "reads flowlit-recipe version 3", "cook again"]),
        ({"version": True}, ["version True", "cook again"]),
        ({"version": "3"}, ["version 3; this flowlit reads", "cook again"]),
        (
            {"format": "a-cake"},
            ["is a-cake version 3; this flowlit reads flowlit-recipe version 3; cook again"],
        ),
        ({"format": ["x"] * 99}, ["reads flowlit-recipe version 3; cook again"]),
        ({"name": 3}, ["name: Expected str, got int"]),
        ({"format": "flowlit\n-recipe"}, [r"is 'flowlit\n-recipe' version 3"]),
        ({"share": 1}, ["share: Expected float < 1.0"]),
        ({"share": "0.5"}, ["share: Expected float, got str"]),
        ({"share": float("nan")}, ["malformed"]),
        ({"parts": [{"rows": 1}, {"rows": -1}]}, ["parts[1].rows: Expected int >= 0"]),
        ({"parts": [{"rows": 10**30}]}, ["parts[0].rows: Expected int <= "]),
        ({"parts": [{"rows": 1.5}]}, ["parts[0].rows: Expected int, got float"]),
        ({"parts": [{"rows": True}]}, ["parts[0].rows: Expected int, got bool"]),
        ({"parts": [{}]}, ["parts[0]: Object missing required field rows"]),
        ({"parts": [{"rows": 1}] * 4}, ["expected at most 3 parts"]),
        ({"notes": {"a": 1}}, ["notes", "Expected str, got int"]),
        ({"notes": nested(DEPTH)}, ["deeper than 64 levels"]),
        ({"other": nested(900)}, ["nest"]),
        ({"other": "x" * 10_000}, ["10,138 bytes, expected at most 10,000"]),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path, change, words):
    path = tmp_path / "recipe.json"
    path.write_bytes(as_json({**GOOD, **change}))
    with pytest.raises(FlowlitError) as error:
        FORMAT.read(path)
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b'{"a": 1} x', "trailing"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "byte order mark"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": NaN}', "malformed"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "it has c twice"),
        (b'{"a": "\\ud800"}', "truncated"),
        (b"[" * 100_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
        (b"9" * 5000, "out of range"),
    ],
)
def test_json_is_strict(data, words):
    with pytest.raises(ValueError, match=words):
        parse_json(data)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "device", "loop", "null"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "a\0b" if kind == "null" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(FlowlitError, match="cook again"):
        FORMAT.read(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "recipe.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with memory_limit(100), pytest.raises(FlowlitError, match="expected at most"):
        PLAIN.read(path)


def test_objects_that_hold_themselves_or_double_are_refused():
    itself = dict(GOOD)
    itself["parts"] = [{"rows": 1}, itself]
    doubled = []
    for _ in range(50):
        doubled = [doubled, doubled]
    for content, words in (
        (itself, "deeper than 64"),
        ({**GOOD, "more": doubled}, "mappings and lists in it are there again"),
    ):
        with memory_limit(500), pytest.raises(FlowlitError, match=words):
            FORMAT.check(content, "file")


@pytest.mark.parametrize("length", few([MANY + 1, 1_300_000], 1))
def test_a_long_list_is_no_nesting(length):
    content = {**GOOD, "labels": [["name", label] for label in range(length)]}
    assert FORMAT.check(content, "file").name == "a"


@given(mutated(as_json(GOOD)))
@bounded
def test_any_bytes_give_a_recipe_or_one_clear_error(data):
    ends_well(lambda: FORMAT.parse(data, "file"))


@given(altered(GOOD))
@bounded
def test_any_value_gives_a_recipe_or_one_clear_error(value):
    ends_well(lambda: FORMAT.parse(as_json(value), "file"))
    ends_well(lambda: PLAIN.check(value, "file"))


@given(JSON)
@bounded
def test_what_json_writes_is_read_as_the_same(value):
    assert parse_json(json.dumps(value)) == value


def test_every_hostile_value_is_parsed_as_json_or_refused():
    for value in VALUES:
        ends_well(lambda value=value: PLAIN.parse(as_json(value), "file"))
