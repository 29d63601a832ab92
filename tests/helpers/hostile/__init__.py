"""The table of hostile inputs: what is tried, and words of the one error that it must end in.

One file a subject; each has ``ROWS``. ``tests/journeys/test_hostile_input.py`` runs them all in one process.
"""

from importlib import import_module
from pkgutil import iter_modules

from .row import Row

ROWS: list[Row] = [
    row
    for module in iter_modules(__path__)
    for row in getattr(import_module(f"{__name__}.{module.name}"), "ROWS", [])
]
