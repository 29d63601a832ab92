"""YAMLs are plain, small and unambiguous, or refused before anything is built."""

import itertools
import time
from pathlib import Path

import pytest
import tiny
import yaml
from commandline import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlit.commands._yaml import load_yaml, network_in, read_yaml
from flowlit.commands._yaml.references import check_references
from flowlit.commands._yaml.text import check_text, load_text
from flowlit.errors import FlowlitError


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\ufeffa: 1", {"a": 1}),
        ("a: !!str 007", {"a": "007"}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("a: &x [1]\nb: [*x, *x]", {"a": [1], "b": [[1], [1]]}),
        ("a: 2025-11-05", {"a": "2025-11-05"}),
        ("a: {b: 1}\nc: {b: 1}", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: [{b: 1}, {b: 2}]", {"a": [{"b": 1}, {"b": 2}]}),
        ("", None),
    ],
)
def test_what_is_sound_is_read(tmp_path, text, content):
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert load_yaml(tmp_path / "a.yaml") == content


def test_shipped_files_are_read_as_by_the_library_but_for_dates():
    files = sorted((REPOSITORY / "experiments").rglob("*.yaml"))
    assert len(files) > 40
    for path in files:
        assert load_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_yaml_with_exponential_aliases_ends_at_once():
    for depth in (5, 9, 60):
        names = [f"a{i}" for i in range(depth)]
        lines = ["a0: &a0 [" + ", ".join("x" * 10) + "]"]
        lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in itertools.pairwise(names)]
        start = time.monotonic()
        with pytest.raises(FlowlitError, match="more than 100,000 values"):
            load_text("\n".join(lines), "a.yaml")
        assert time.monotonic() - start < 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.one_of(st.binary(max_size=200), st.text("{}[]&*:-!? \n\tab'\"#|>%@`0.~", max_size=60).map(str.encode))
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a.yaml"
    path.write_bytes(data)
    for reader in (load_yaml, read_yaml, network_in):
        try:
            reader(path)
        except FlowlitError as error:
            assert str(path) in str(error) and len(str(error)) < 1500


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=5), TREES, max_size=4))
def test_whatever_the_library_writes_is_sound(content):
    text = yaml.safe_dump(content, allow_unicode=True)
    assert load_text(text, "a") == yaml.safe_load(text)


def test_a_fragment_that_names_itself_is_told(tmp_path):
    tiny.write(tmp_path / "a.yaml", {"network": "b.yaml"})
    tiny.write(tmp_path / "b.yaml", {"network": "a.yaml"})
    with pytest.raises(FlowlitError, match="names itself"):
        read_yaml(tmp_path / "a.yaml")


def test_fragments_of_fragments_are_put_in_place(tmp_path):
    tiny.write(tmp_path / "a.yaml", {"network": "parts/b.yaml"})
    tiny.write(tmp_path / "parts/b.yaml", {"inner": ["c.yaml", "other.yaml"]})
    tiny.write(tmp_path / "parts/c.yaml", {"x": 1})
    assert read_yaml(tmp_path / "a.yaml") == {"network": {"inner": [{"x": 1}, "other.yaml"]}}


@pytest.mark.parametrize("word", ["*.png", "a: b: c", "[", "{", "'", "a*b", "[a", "%", "- - -", "&"])
def test_a_word_that_is_no_yaml_is_a_text(word):
    check_text(word, "--a")


def test_a_missing_file_has_the_text_that_is_given():
    with pytest.raises(FlowlitError, match=r"^no nowhere\.yaml here$"):
        load_yaml(Path("nowhere.yaml"), "no {} here")


def test_references_of_shipped_files_and_of_layers_are_sound():
    for path in (REPOSITORY / "experiments").rglob("*.yaml"):
        check_references([read_yaml(path)], str(path))
    check_references([{"x": "${ oc.env:A,b } ${oc.env:A,${y}}", "y": 2}], "a file")
    check_references([{"x": "${y}", "y": 2}, {"x": 1, "y": "${x}"}], "two files")
    check_references(
        [{"x": {"a": "${.b}", "b": "${..y[0]}"}, "y": ["${oc.env:HOME}", "${nowhere.a-b}"]}],
        "a file",
    )
