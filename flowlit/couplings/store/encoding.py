"""Pairs as a shard holds them: rounding, and what a file needs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...data import Pixels
from ...errors import FlowlitError
from ...types import Pair


def pack(
    index: Tensor, pair: Pair, nfe: Tensor, seed: int, x0: X0, x1: X1
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Round a shard's pairs to what is stored.

    Args:
        index: (rows,) of the noise or image within its seed.
        pair: float32 rows.
        nfe: (rows,).
        seed: of the noise.
        x0, x1: dtypes.

    Returns:
        the arrays by name, and what the manifest says of this shard.

    Raises:
        FlowlitError: if the pairs are not finite.
    """
    if not (torch.isfinite(pair.x0).all() and torch.isfinite(pair.x1).all()):
        raise FlowlitError("the teacher's pairs are not finite; nothing of this shard was written")
    entries = pair.x1[0].numel()
    stored = {"index": index, "x1": rounded(pair.x1, x1), **pair.cond}
    rounding = {"x0": {"squares": 0.0, "max": 0.0}, "x1": rounding_error(pair.x1, stored["x1"])}
    if x0 == "seed":
        stored["probe"] = pair.x0[:1]
    else:
        stored["x0"] = rounded(pair.x0, x0)
        rounding["x0"] = rounding_error(pair.x0, stored["x0"])
    facts = {
        "rows": len(index),
        "seed": seed,
        "index": [int(index.min()), int(index.max())],
        "nfe": {"sum": int(nfe.sum()), "min": int(nfe.min()), "max": int(nfe.max())},
        "range": [round(float(pair.x1.min()), 4), round(float(pair.x1.max()), 4)],
        "rounding": {end: {**error, "entries": entries} for end, error in rounding.items()},
    }
    return {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in stored.items()}, facts


X0 = Literal["float32", "float16", "seed"]
"""How noise is stored; ``seed``: not at all, it is drawn again from (seed, index)."""


X1 = Literal["float32", "float16", "uint8"]
"""How data is stored; ``uint8`` is what an image file would hold: 256 levels of [-1, 1], what lies outside is
clipped.
"""


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
