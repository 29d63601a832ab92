"""Parts of all sets of images."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from .._support.files import short_hash
from ..errors import FlowlitError
from .decode import SUFFIXES


def _digest(*parts: Any) -> str:
    return short_hash(json.dumps([str(p) for p in parts]))


def _item(image: Tensor, label: int | None) -> dict[str, Any]:
    return {"x1": image, "cond": {} if label is None else {"label": torch.tensor(label, dtype=torch.int64)}}


def _limited(count: int, limit: int | None, source: str, left_out: str = "") -> int:
    if limit is not None and limit > count:
        raise FlowlitError(
            f"{source}: limit is {limit}, but it holds {count} images; lower or remove the limit"
        )
    if count == 0:
        others = f"; left out: {left_out}" if left_out else ""
        raise FlowlitError(
            f"{source} holds no images; expected at least one ({', '.join(sorted(SUFFIXES))}){others}"
        )
    return count if limit is None else limit
