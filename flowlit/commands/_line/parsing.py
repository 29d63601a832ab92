"""Errors of jsonargparse in one line: the option, and what is wrong with it."""

from __future__ import annotations

import os
import re

from .._yaml.trust import MEND
from .errors import LENGTH, TRACEBACK

KEY = re.compile(r'Parser key "([\w.+-]+)":\s*(.*)')
FRAME = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value|"
    r"Expected a <class 'NoneType'>|Expected a path but .* either not accessible or invalid|"
    r"Subclass types expect one of:|a class path \(str\)|a dict with|"
    r"Problem with given class_path '[\w.]+':$|$"
)
"""Lines of an error that only lead to what is wrong."""

WEAK = re.compile(r"Not a valid subclass of|Expected a <class '(str|list|dict)'>")
"""What is wrong with one of several types, of which another has a better reason."""

IS_NO = r"\1 is no \2, nor a function that returns one by its annotation"
WORDS = (
    (r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>\. Got value: (.*)", r"expected \1, found \2"),
    (r"Expected an? <class '(?:[\w.]+\.)?(\w+)'>", r"expected \1"),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", IS_NO),
    (r"Import path does not correspond to a subclass of (\w+)", r"expected \1, or what returns one"),
    (r"^Not of type .*?: (found .*, expected .*)", r"\1"),
    (r"Expected a (typing\.)?Literal", "expected one of "),
    (r"\.\. Got value: .*$", ""),
    (r"(expected an? [\w ]*number.*)\. Got value: .*$", r"\1"),
    (r"Importing '(\S+)' is not allowed, denied by .*", rf"\1 is refused; {MEND}"),
)
"""Wordings of jsonargparse, and ours."""


def reworded(message: str) -> str:
    """Return an error of jsonargparse in one line.

    >>> reworded('Parser key "trainer.max_steps":\\n  Expected a <class \\'int\\'>. Got value: many')
    'trainer.max_steps: expected int, found many'
    """
    keys: list[str] = []
    reasons: list[str] = []
    for line in message.splitlines():
        text = re.sub(r"^\s*(- )?(Type .* expects a function or a callable class: )?", "", line)
        key = KEY.fullmatch(text)
        if key is not None and not reasons:
            keys.append(key[1])
        text = key[2] if key is not None else text
        if not FRAME.match(text):
            reasons.append(text.strip())
    strong = [reason for reason in reasons if not WEAK.match(reason)] or reasons
    text = "; or ".join(dict.fromkeys(map(_in_our_words, strong[:2]))) or message.partition("\n")[0]
    where = f"{'.'.join(keys)}: " if keys else ""
    return where + (text if len(text) <= LENGTH else f"{text[:LENGTH]}…")


def _in_our_words(reason: str) -> str:
    for pattern, words in WORDS:
        reason = re.sub(pattern, words, reason)
    return reason


def usage_error(prog: str, message: str) -> str:
    """Return what a parser prints before it ends with exit code 2; all of it if tracebacks are shown."""
    text = message if os.environ.get(TRACEBACK) else reworded(message)
    given = re.findall(r"NestedArg\(key='.*', val='(.*\$\{.*)'\)", message)
    hint = f" (given {given[-1]})" if given and given[-1] not in text else ""
    return f"{prog}: error: {text}{hint}\nsee {prog} --help\n"
