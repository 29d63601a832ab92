"""The page: sections in a template. Whatever a run has written is escaped there, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._version import __version__
from .blocks import Section

LONGEST = 2000
"""Characters of a text that are shown, at most."""


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, sections=sections, version=__version__)


def shown(value: Any) -> Any:
    """Return a text of a run as it can be shown: signs that would not be seen, or turn others around, as
    codes, and not more than can be read; addresses of pictures as they are.

    >>> shown("a\\u202eb"), shown(3)
    ('a\\\\u202eb', 3)
    """
    if not isinstance(value, str) or hasattr(value, "__html__") or value.startswith("data:image/"):
        return value
    text = value if len(value) <= LONGEST else f"{value[:LONGEST]}…"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
