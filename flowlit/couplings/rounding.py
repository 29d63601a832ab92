"""The two ends of a pair as they are stored: what precision costs is measured when it is spent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..codecs import Pixels

X0 = Literal["float32", "float16", "seed"]
"""How noise is stored; ``seed``: not at all, it is drawn again from (seed, index)."""
X1 = Literal["float32", "float16", "uint8"]
"""How data is stored; ``uint8`` is what an image file would hold: 256 levels of [-1, 1], what lies outside is clipped."""


def rounded(x: Tensor, dtype: X1 | X0) -> Tensor:
    """Round float32 to a stored dtype."""
    return Pixels().decode(x) if dtype == "uint8" else x.to(getattr(torch, dtype))


def restored(x: Tensor) -> Tensor:
    """Return what was stored as float32.

    >>> restored(rounded(torch.tensor([-1.0, 0.5, 1.25]), "uint8")).tolist()
    [-1.0, 0.49803924560546875, 1.0]
    """
    return Pixels().encode(x) if x.dtype == torch.uint8 else x.float()


def rounding_error(x: Tensor, stored: Tensor) -> dict[str, Any]:
    """Sum of squares and maximum of what rounding changed, to be summed up over shards."""
    error = (restored(stored) - x).double()
    return {"squares": float(error.square().sum()), "max": float(error.abs().max())}
