"""From solved pairs to the arrays of a shard, with the facts about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..types import FlowlitError, Pair
from .rounding import X0, X1, rounded, rounding_error


def pack(index: Tensor, pair: Pair, nfe: Tensor, seed: int, x0: X0, x1: X1) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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
