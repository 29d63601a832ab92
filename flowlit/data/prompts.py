"""Prompts: texts of a file, of a list, or made of the names of classes; each once, in order."""

from __future__ import annotations

import csv
import hashlib
import json
import reprlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from .._support.extras import needed
from .._support.files import check_file, open_plain
from ..errors import FlowlitError
from ..ranges import Checked, PositiveInt
from .classes import Classes
from .labels import names_to_take

LONGEST = 10_000
"""Characters of a prompt, at most; CLIP reads about 300."""

LONGEST_LINE = 1 << 20
"""Bytes of a line, at most."""

FORMATS = (".txt", ".csv", ".jsonl", ".parquet")


class Prompts(Checked):
    """Texts from which images are generated, or that stand for classes. Give one of the first three.

    Texts of a file are stripped of blanks at both ends, empty ones are left out, and one that occurs twice
    counts once.

    Args:
        file: .txt with a prompt a line, or .csv, .jsonl or .parquet with a column of them; UTF-8.
        texts: the prompts themselves.
        classes: names of class 0, 1, …, or a folder or zip of images whose classes these are; prompt k is
            that of class k.
        template: for classes; {} stands for the name.
        column: of the file.
        limit: use only the first ones.
    """

    def __init__(
        self,
        file: str | None = None,
        texts: list[str] | None = None,
        classes: Classes = None,
        template: str = "a photo of a {}",
        column: str = "prompt",
        limit: PositiveInt | None = None,
    ):
        given = {"file": file, "texts": texts, "classes": classes}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise FlowlitError(
                f"Prompts: {' and '.join(names) or 'nothing'} given; expected one of file, texts, classes"
            )
        if classes is not None and template.count("{}") != 1:
            raise FlowlitError(
                f"Prompts: template is {template!r:.80}; expected one {{}} in it, for the name of a class"
            )
        self.file = file
        self.given = texts
        self.classes = classes
        self.template = template
        self.column = column
        self.limit = limit

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The prompts; read when they are first needed.

        Raises:
            FlowlitError: if there are none, or the file cannot be read.
        """
        texts = self._read()
        if not texts:
            raise FlowlitError(f"{self.source} has no prompts; expected at least one")
        if self.limit is not None and self.limit > len(texts):
            raise FlowlitError(
                f"{self.source}: limit is {self.limit}, but there are {len(texts)} different ones; lower it"
            )
        return texts[: self.limit]

    def _read(self) -> tuple[str, ...]:
        if self.classes is not None:
            names = names_to_take(self.classes, "Prompts") or ()
            return tuple(self.template.replace("{}", name) for name in names)
        if self.file is not None:
            return tuple(dict.fromkeys(read_prompts(self.file, self.column)))
        for text in self.given or ():
            check_prompt(text, "Prompts")
        return tuple(dict.fromkeys(self.given or ()))

    @property
    def source(self) -> str:
        """Name of where they come from, for messages."""
        return f"prompts {self.file}" if self.file else "Prompts"

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the texts in their order."""
        return texts_hash(self.texts)


def texts_hash(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def check_prompt(text: Any, where: str) -> str:
    """Return a prompt.

    Raises:
        FlowlitError: for one that is no text, has half a sign in it, or is far too long.
    """
    if not isinstance(text, str):
        raise FlowlitError(f"{where}: a prompt is {reprlib.repr(text)}; expected text")
    if len(text) > LONGEST:
        raise FlowlitError(
            f"{where}: a prompt has {len(text):,} characters ({text[:40]!r} …); expected {LONGEST:,} at most"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FlowlitError(f"{where}: a prompt is no Unicode text ({error.reason}); repair it") from error
    return text


def read_prompts(path: str | Path, column: str = "prompt") -> Iterator[str]:
    """Yield the prompts of a file as they stand there, stripped, and without empty ones.

    Raises:
        FlowlitError: if the file is missing, of another format, not UTF-8, or lacks the column.
    """
    kind = Path(path).suffix.lower()
    if kind not in FORMATS:
        raise FlowlitError(f"prompts {path}: expected a file that ends in {', '.join(FORMATS)}")
    check_file(path, "prompts", f"name a file that ends in {', '.join(FORMATS)}")
    rows = _of_parquet(path, column) if kind == ".parquet" else _of_text(path, kind, column)
    for where, text in rows:
        stripped = check_prompt("" if text is None else text, where).strip()
        if stripped:
            yield stripped


def _of_text(path: str | Path, kind: str, column: str) -> Iterator[tuple[str, Any]]:
    """Yield where a prompt stands, and the prompt, of a file of lines."""
    try:
        with open(path, "rb", opener=open_plain) as file:
            lines = _lines(file, str(path))
            if kind == ".csv":
                yield from _of_csv(lines, str(path), column)
                return
            for number, line in enumerate(lines, 1):
                where = f"prompts {path}, line {number}"
                yield where, line if kind == ".txt" else _of_object(line, where, column)
    except (OSError, csv.Error) as error:
        raise FlowlitError(f"prompts {path} cannot be read ({error}); repair it") from error


def _lines(file: IO[bytes], path: str) -> Iterator[str]:
    """Yield decoded lines, each of which is read with a limit.

    Raises:
        FlowlitError: naming the line.
    """
    number = 0
    while raw := file.readline(LONGEST_LINE + 1):
        number += 1
        where = f"prompts {path}, line {number}"
        if len(raw) > LONGEST_LINE:
            raise FlowlitError(f"{where}: it is longer than {LONGEST_LINE:,} bytes; expected a prompt a line")
        if b"\0" in raw:
            raise FlowlitError(f"{where}: it holds zero bytes, as no text does; expected UTF-8 text")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise FlowlitError(
                f"{where}: byte {error.start} is no UTF-8; save the file as UTF-8, or name one of prompts"
            ) from error


def _of_object(line: str, where: str, column: str) -> Any:
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FlowlitError(f'{where} is no JSON ({error}); expected {{"{column}": "…"}}') from error
    if not isinstance(value, dict) or column not in value:
        known = sorted(value)[:8] if isinstance(value, dict) else type(value).__name__
        raise FlowlitError(f"{where} has no {column!r}, but {known}; set column")
    return value[column]


def _of_csv(lines: Iterator[str], path: str, column: str) -> Iterator[tuple[str, Any]]:
    rows = csv.reader(lines, strict=True)
    header = next(rows, [])
    _check_column(column, header, path)
    place = header.index(column)
    for row in rows:
        if row and len(row) <= place:
            raise FlowlitError(
                f"prompts {path}, line {rows.line_num}: it has {len(row)} fields, and {column!r} is number "
                f"{place + 1}; repair it"
            )
        yield f"prompts {path}, line {rows.line_num}", row[place] if row else None


def _of_parquet(path: str | Path, column: str) -> Iterator[tuple[str, Any]]:
    arrow = needed("pyarrow")
    parquet = needed("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        _check_column(column, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(columns=[column], batch_size=1 << 14):
            for text in batch.column(0).to_pylist():
                yield f"prompts {path}", text
    except (OSError, arrow.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise FlowlitError(f"prompts {path} cannot be read ({why}); expected a file of Parquet") from error


def _check_column(column: str, names: list[str], path: str) -> None:
    if column not in names:
        shown = ", ".join(map(repr, names[:8])) or "none"
        raise FlowlitError(f"prompts {path}: there is no column {column!r}; set column to one of {shown}")
