"""Formats of JSON files, each with the struct of its fields: a file is sound, or refused in one line.

Read without torch, so that it is instant.

A field that a struct lacks is kept and not looked at, so that files of neighbouring versions can be read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from ..errors import FlowlitError
from .files import check_file

DEPTH = 64
"""Mappings and lists inside each other, at most."""


MANY = 100_000
"""Mappings and lists that are there again, as the same object, at most."""


Count = Annotated[int, Meta(ge=0, le=1 << 62)]
"""Number of things or bytes; sums of a few fit into an int64."""


Positive = Annotated[int, Meta(ge=1, le=1 << 62)]
"""Likewise, at least one."""


Seed = Annotated[int, Meta(ge=0)]
"""Seed of a random number generator, of any length."""


T = TypeVar("T", bound=msgspec.Struct)


class TrainedOn(msgspec.Struct):
    """Images that a network was trained on, see ``data.provenance``."""

    name: str
    fingerprint: str
    images: Count | None = None
    part: str | None = None
    whole: str | None = None
    fresh_noise: bool | None = None


@dataclass(frozen=True)
class Format(Generic[T]):
    """A format of JSON files, or of JSON inside other files.

    Args:
        schema: struct of the fields; its ``__post_init__`` raises ValueError where they contradict each
            other.
        what: the file is, in words.
        mend: what to do with a damaged one.
        name: the field ``format`` of a file, if it has one.
        versions: the field ``version`` of files that can be read, first and last.
        limit: bytes, at most.
    """

    schema: type[T]
    what: str
    mend: str
    name: str | None = None
    versions: tuple[int, int] = (1, 1)
    limit: int = 16 << 20

    def read(self, path: str | Path) -> dict[str, Any]:
        """Read a file: all of its fields, of which those of the schema are sound.

        Raises:
            FlowlitError: if it is missing, no plain file, too large, torn, of a newer version, or unsound.
        """
        size = check_file(path, self.what, self.mend)
        if size > self.limit:
            raise self._unsound(path, f"it has {size:,} bytes, expected at most {self.limit:,}")
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise self._unsound(path, str(error)) from error
        return self.parse(data, path)

    def parse(self, data: bytes | str, where: str | Path) -> dict[str, Any]:
        """Parse JSON that was read from a place; see ``read``."""
        try:
            content = parse_json(data)
        except ValueError as error:
            raise self._unsound(where, str(error)) from error
        self.check(content, where)
        return content

    def check(self, content: Any, where: str | Path) -> T:
        """Return the fields of the schema as its struct.

        Raises:
            FlowlitError: if the content is of a newer version, or unsound; naming the field.
        """
        if self.name is not None:
            self._check_version(content, where)
        try:
            _check_nesting(content)
            return msgspec.convert(content, self.schema)
        except (ValueError, RecursionError) as error:
            raise self._unsound(where, self._missing(content) or _worded(error)) from error

    def _check_version(self, content: Any, where: str | Path) -> None:
        """Refuse other formats and versions: newer ones are not damaged."""
        fields: dict[str, Any] = content if isinstance(content, dict) else {}
        if "format" not in fields:
            return  # whether it is required is a matter of the schema
        first, last = self.versions
        version: Any = fields.get("version")
        ours = fields["format"] == self.name and type(version) is int
        if ours and first <= version <= last:
            return
        header = f"{_short(fields['format'])} version {_short(version)}"
        mend = "install a newer flowlit, which wrote it" if ours and version > last else self.mend
        raise FlowlitError(f"{where} is {header}; this flowlit reads {self.name} version {last}; {mend}")

    def _missing(self, content: Any) -> str:
        """Return the required fields that a file lacks, in words; '' if it has all."""
        required = [field.encode_name for field in msgspec.structs.fields(self.schema) if field.required]
        missing = [name for name in required if isinstance(content, dict) and name not in content]
        return f"it lacks {', '.join(missing)}" if missing else ""

    def _unsound(self, where: str | Path, why: str) -> FlowlitError:
        return FlowlitError(f"{where} is no {self.what} ({_short(why, 400)}); {self.mend}")


def parse_json(data: bytes | str) -> Any:
    """Parse strict JSON: UTF-8, finite numbers, no key twice in a mapping.

    Raises:
        ValueError: saying what is wrong with it.
    """
    text = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if text.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it begins with a byte order mark; expected UTF-8 without one")
    try:
        text.decode()
        content = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_refuse_twice)  # msgspec takes the last of equal keys
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    return content


def _check_nesting(content: Any) -> None:
    """Refuse what no recursive function could go through: objects that hold themselves, or double each level.

    Raises:
        ValueError: naming the bound.
    """
    repeated = 0
    level = {id(content): (content, 1)}  # each object once, and how often a recursive function would meet it
    for _ in range(DEPTH):
        below: dict[int, tuple[Any, int]] = {}
        for parent, times in level.values():
            for child in _children(parent):
                known = below.get(id(child), (child, 0))[1]
                below[id(child)] = child, known + times
        if not below:
            return
        repeated += sum(times - 1 for _, times in below.values())
        if repeated > MANY:
            raise ValueError(f"more than {MANY:,} mappings and lists in it are there again")
        level = below
    raise ValueError(f"it is nested deeper than {DEPTH} levels")


def _children(value: Any) -> Iterator[Any]:
    """Yield the mappings and lists directly inside a value."""
    entries = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list, tuple)):
        yield from (entry for entry in entries if isinstance(entry, (dict, list, tuple)))


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it has {_short(twice)} twice")


def _worded(error: BaseException) -> str:
    """Return msgspec's message with the name of the field in front."""
    message, _, place = str(error).partition(" - at `$")
    message = message.replace("`", "")
    return f"{place.strip('.`')}: {message}" if place.strip(".`") else message


def _short(value: Any, length: int = 40) -> str:
    """Return a value as text for a message: one line, and not a long one."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= length else f"{text[:length]}…"
