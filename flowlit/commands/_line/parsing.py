"""Errors of jsonargparse in one line: the option, what was found, what was expected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from .errors import LENGTH, TRACEBACK
from .reasons import meant, reasons_of
from .wording import in_our_words


def reworded(message: str, known: Iterable[str] = ()) -> str:
    """Return an error of jsonargparse in one line.

    ``known`` are options of the parser, for a name that is none of them.

    >>> reworded('Parser key "trainer.max_steps":\\n  Expected a <class \\'int\\'>. Got value: many')
    'trainer.max_steps: found many, expected int'
    """
    reasons = reasons_of(message)
    if not reasons:
        return _cut(message.partition("\n")[0])
    reason = meant(reasons)
    where = f"{'.'.join(reason.keys)}: " if reason.keys else ""
    return _cut(where + in_our_words(reason, known))


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}…"


def usage_error(prog: str, message: str, known: Iterable[str] = ()) -> str:
    """Return what a parser prints before it ends with exit code 2; all of it if tracebacks are shown."""
    text = message if os.environ.get(TRACEBACK) else reworded(message, known)
    given = re.findall(r"NestedArg\(key='.*', val='(.*\$\{.*)'\)", message)
    hint = f" (given {given[-1]})" if given and given[-1] not in text else ""
    return f"{prog}: error: {text}{hint}\nsee {prog} --help\n"
