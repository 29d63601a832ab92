"""Files of class labels, or of seeds: one whole number a pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .._support.arrays import map_npy
from .._support.files import check_file
from ..errors import FlowlitError

MOST_BYTES = 1 << 30
"""Of a file of labels or seeds, at most."""


def read_labels(path: str, what: str = "labels") -> list[int]:
    """Read whole numbers from .npy or text (one a line): class labels, or seeds.

    Raises:
        FlowlitError: if the file is missing or holds something else.
    """
    expected = "expected .npy or text, one number a pair"
    if check_file(path, what, expected) > MOST_BYTES:
        raise FlowlitError(f"{what} {path}: the file is larger than {MOST_BYTES:,} bytes; {expected}")
    try:
        array = map_npy(Path(path)) if path.endswith(".npy") else np.loadtxt(path, dtype=np.int64, ndmin=1)
    except (OSError, ValueError, OverflowError) as error:
        raise FlowlitError(f"{what} {path} cannot be read ({error}); {expected}") from error
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer):
        raise FlowlitError(
            f"{what} {path}: found {array.dtype} {array.shape}, expected whole numbers (pairs,)"
        )
    return array.tolist()
