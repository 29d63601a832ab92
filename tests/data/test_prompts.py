"""Prompts of files, lists and classes; what is no file of prompts is refused in one line."""

import gzip
import io
import json

import pytest
from hostile_bytes import ends_well

from flowlit.data import Prompts
from flowlit.data.prompts import LONGEST, LONGEST_LINE, read_prompts
from flowlit.errors import FlowlitError

TEXTS = ["a red cat", "собака, 犬", 'he said "no"', "เด็ก 🐶"]


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def parquet(path, columns):
    arrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(arrow.table(columns), path)
    return str(path)


def test_every_form_has_the_same_prompts_each_once_and_in_order(tmp_path):
    rows = [f"  {text} " for text in [*TEXTS, "", TEXTS[0]]]
    csv = 'number,prompt\r\n1,a red cat\n2,"собака, 犬"\n3,"he said ""no"""\n4,เด็ก 🐶\n5,\n\n6, a red cat \n'
    files = [
        written(tmp_path / "a.txt", "\ufeff" + "\r\n".join(rows)),
        written(tmp_path / "a.csv", "\ufeff" + csv),
        written(
            tmp_path / "a.jsonl", "\n".join([json.dumps({"prompt": row, "n": 1}) for row in rows]) + "\n\n"
        ),
        parquet(tmp_path / "a.parquet", {"n": [1] * 7, "prompt": [*rows, None]}),
    ]
    for file in files:
        prompts = Prompts(file)
        assert list(prompts.texts) == TEXTS, file
        assert prompts.fingerprint == Prompts(texts=TEXTS).fingerprint and len(prompts) == 4
    assert Prompts(files[0], limit=2).texts == tuple(TEXTS[:2])
    assert Prompts(texts=["b", "a", "b"]).texts == ("b", "a")
    assert Prompts(texts=["ab", "c"]).fingerprint != Prompts(texts=["a", "bc"]).fingerprint


def test_another_column_may_have_them(tmp_path):
    file = written(tmp_path / "a.csv", "text,prompt\nx,y\n")
    assert Prompts(file, column="text").texts == ("x",)


def test_classes_become_prompts_by_a_template(tmp_path):
    prompts = Prompts(classes=["cat", "dog"], template="a {} at night")
    assert prompts.texts == ("a cat at night", "a dog at night")
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    assert Prompts(classes=str(tmp_path)).texts == ("a photo of a a", "a photo of a b")
    for template in ("a photo", "{} and {}"):
        with pytest.raises(FlowlitError, match=r"expected one \{\} in it"):
            Prompts(classes=["cat"], template=template)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing given; expected one of file, texts, classes"),
        ({"file": "a.txt", "texts": ["a"]}, "file and texts given"),
        ({"texts": []}, "has no prompts"),
        ({"texts": ["a"], "limit": 2}, "limit is 2, but there are 1"),
        ({"texts": ["a" * (LONGEST + 1)]}, "has 10,001 characters"),
        ({"texts": ["\ud800"]}, "is no Unicode text"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(FlowlitError, match=message):
        Prompts(**arguments).texts  # noqa: B018


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "has no prompts; expected at least one"),
        ("a.txt", b" \n\n", "has no prompts"),
        ("a.txt", "a\ncaf\u00e9\n".encode("latin-1"), "line 2: byte 3 is no UTF-8; save the file as UTF-8"),
        ("a.txt", b"a\0b\n", "line 1: it holds zero bytes"),
        ("a.txt", "a\n".encode("utf-16"), "line 1: it holds zero bytes"),
        ("a.txt", gzip.compress(b"a\n", mtime=0), "line 1: "),
        ("a.txt", b"x" * (LONGEST_LINE + 9), "line 1: it is longer than 1,048,576 bytes"),
        ("a.txt", b"y\n" + b"x" * (LONGEST + 1), "line 2: a prompt has 10,001 characters"),
        ("a.csv", b"text,b\nx,y\n", "there is no column 'prompt'; set column to one of 'text', 'b'"),
        ("a.csv", b"", "there is no column 'prompt'; set column to one of none"),
        ("a.csv", b"b,prompt\nx\n", "line 2: it has 1 fields, and 'prompt' is number 2"),
        ("a.csv", b'prompt\n"x\n', "cannot be read"),
        ("a.jsonl", b"a\n", "line 1 is no JSON"),
        ("a.jsonl", b'{"text": "a"}\n', "line 1 has no 'prompt', but .'text'.; set column"),
        ("a.jsonl", b"[1]\n", "line 1 has no 'prompt', but list"),
        ("a.jsonl", b'{"prompt": 3}\n', "a prompt is 3; expected text"),
        ("a.jsonl", b"[" * 200_000, "line 1 is no JSON"),
        ("a.md", b"a", "expected a file that ends in .txt, .csv"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, message):
    with pytest.raises(FlowlitError, match=message) as refused:
        Prompts(written(tmp_path / name, content)).texts  # noqa: B018
    assert "\n" not in str(refused.value)


def test_what_is_no_parquet_and_other_columns_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(FlowlitError, match=r"cannot be read .*; expected a file of Parquet"):
        Prompts(written(tmp_path / "a.parquet", b"PAR1 nothing")).texts  # noqa: B018
    with pytest.raises(FlowlitError, match="there is no column 'prompt'; set column to one of 'x'"):
        Prompts(parquet(tmp_path / "b.parquet", {"x": [1]})).texts  # noqa: B018
    with pytest.raises(FlowlitError, match="a prompt is 1; expected text"):
        Prompts(parquet(tmp_path / "c.parquet", {"prompt": [1]})).texts  # noqa: B018


def test_a_folder_a_pipe_and_nothing_are_no_files(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(FlowlitError):
            list(read_prompts(path))
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(FlowlitError, match="is a folder, expected a file"):
        list(read_prompts(tmp_path / "d.txt"))


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_bytes_of_other_formats_end_in_prompts_or_one_error(tmp_path, kind):
    stream = io.BytesIO()
    with gzip.open(stream, "wb") as file:
        file.write(b"prompt\nx\n")
    for content in (
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"PK\3\4" + bytes(range(256)),
        stream.getvalue(),
    ):
        file = written(tmp_path / f"a.{kind}", content)
        ends_well(lambda file=file: Prompts(file).texts)
