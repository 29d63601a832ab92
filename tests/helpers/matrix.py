"""Rows of a parametrised test: the first ones always run, the others with the slow tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def few(rows: Sequence[Any], count: int) -> list[Any]:
    """Return the rows, all after the first ``count`` marked slow."""
    values = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [
        pytest.param(*row, marks=[pytest.mark.slow] if i >= count else []) for i, row in enumerate(values)
    ]
