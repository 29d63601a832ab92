"""Pairs as a shard holds them: rounding, what a file needs, and how x1 becomes images again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..._support.names import in_current_names, public_path
from ...data import Pixels
from ...data.codecs import from_levels, to_levels
from ...errors import FlowlitError
from ...networks.checkpoints.fingerprint import identity
from ...networks.checkpoints.spec import build, spec
from ...types import Codec, Pair

X0 = Literal["float32", "float16", "seed"]
"""How noise is stored; ``seed``: not at all, it is drawn again from (seed, index)."""


X1 = Literal["float32", "float16", "uint8"]
"""How data is stored; ``uint8`` is what an image file would hold: 256 levels of [-1, 1], what lies outside is
clipped.
"""


def pack(
    index: Tensor, pair: Pair, nfe: Tensor, seed: int, x0: X0, x1: X1, path: Tensor | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Round a shard's pairs to what is stored.

    Args:
        index: (rows,) of the noise or image within its seed.
        pair: float32 rows.
        nfe: (rows,).
        seed: of the noise.
        x0, x1: dtypes.
        path: (rows, K - 1, C, H, W), states between the ends, stored as x1; None for pairs alone.

    Returns:
        the arrays by name, and the facts of this shard for the manifest.

    Raises:
        FlowlitError: if the pairs are not finite.
    """
    states = (pair.x0, pair.x1) if path is None else (pair.x0, pair.x1, path)
    if not all(torch.isfinite(state).all() for state in states):
        raise FlowlitError("the teacher's pairs are not finite; nothing of this shard was written")
    entries = {"x0": pair.x1[0].numel(), "x1": pair.x1[0].numel()}
    stored = {"index": index, "x1": rounded(pair.x1, x1), **pair.cond}
    rounding = {"x0": {"squares": 0.0, "max": 0.0}, "x1": rounding_error(pair.x1, stored["x1"])}
    if x0 == "seed":
        stored["probe"] = pair.x0[:1]
    else:
        stored["x0"] = rounded(pair.x0, x0)
        rounding["x0"] = rounding_error(pair.x0, stored["x0"])
    if path is not None:
        stored["path"] = rounded(path, x1)
        rounding["path"] = rounding_error(path, stored["path"])
        entries["path"] = path[0].numel()
    facts = {
        "rows": len(index),
        "seed": seed,
        "index": [int(index.min()), int(index.max())],
        "nfe": {"sum": int(nfe.sum()), "min": int(nfe.min()), "max": int(nfe.max())},
        "range": [round(float(pair.x1.min()), 4), round(float(pair.x1.max()), 4)],
        "rounding": {end: {**error, "entries": entries[end]} for end, error in rounding.items()},
    }
    return {name: np.ascontiguousarray(tensor.cpu().numpy()) for name, tensor in stored.items()}, facts


def rounded(x: Tensor, dtype: X1 | X0) -> Tensor:
    """Round float32 (B, …) to a stored dtype, (B, …)."""
    return to_levels(x) if dtype == "uint8" else x.to(getattr(torch, dtype))


def restored(x: Tensor) -> Tensor:
    """Return what was stored, (B, …), as float32 (B, …).

    >>> restored(rounded(torch.tensor([-1.0, 0.5, 1.25]), "uint8")).tolist()
    [-1.0, 0.49803924560546875, 1.0]
    """
    return from_levels(x) if x.dtype == torch.uint8 else x.float()


def restored_pair(pair: Pair) -> Pair:
    """Return a batch of stored pairs with both ends (B, C, H, W) as float32, and states between them."""
    cond = {name: restored(value) if name == "path" else value for name, value in pair.cond.items()}
    return Pair(restored(pair.x0), restored(pair.x1), cond)


def rounding_error(x: Tensor, stored: Tensor) -> dict[str, Any]:
    """Return sum of squares and maximum of what rounding changed in x (B, …), to be summed up over shards."""
    error = (restored(stored) - x).double()
    return {"squares": float(error.square().sum()), "max": float(error.abs().max())}


def pair_bytes(shape: Sequence[int], x0: X0, x1: X1, conditions: int = 0, states: int = 1) -> int:
    """Return the bytes of one pair in a shard: both ends, its index, and its conditions (8 for a label).

    With ``states`` of the trajectory, of which x1 is the last.

    >>> pair_bytes((3, 32, 32), "float16", "float16")
    12296
    """
    entry = {"float32": 4, "float16": 2, "uint8": 1, "seed": 0}
    return math.prod(shape) * (entry[x0] + states * entry[x1]) + 8 + conditions


def codec_facts(codec: Codec) -> dict[str, Any] | None:
    """Describe a codec for a manifest: equal for codecs that do the same, and enough to build most of them
    again. None for ``Pixels``, which manifests do not name.
    """
    if type(codec) is Pixels:
        return None
    described = spec(codec)
    if described is None:
        return {"class": public_path(type(codec)), "identity": identity(codec)}
    weights = getattr(codec, "fingerprint", None)
    return described if weights is None else {**described, "fingerprint": weights}


def stored_codec(manifest: dict[str, Any]) -> Codec:
    """Build the codec that turns a store's x1 into images.

    Raises:
        FlowlitError: if the manifest does not say how.
    """
    facts = manifest.get("codec")
    if facts is None:
        return Pixels()
    if "class_path" not in facts:
        raise FlowlitError(
            f"the pairs have the codec {facts['class']}, and their manifest does not say how it is built; "
            "make it a dataclass, or give it a `spec` (class_path, init_args), and make the couplings again"
        )
    return build({key: facts[key] for key in ("class_path", "init_args") if key in facts}, Codec)


def check_codec(facts: dict[str, Any] | None, codec: Codec, source: str) -> None:
    """Refuse pairs or images of another codec than that of the model.

    Args:
        facts: ``codec_facts`` of the data's codec.
        codec: of the model.
        source: of the data, for the message.

    Raises:
        FlowlitError: naming both.
    """
    own = codec_facts(codec)
    if in_current_names(facts) != in_current_names(own):
        raise FlowlitError(
            f"{source} have the codec {_codec_name(facts)}, but that of the model is {_codec_name(own)}; "
            "give both the same (model.codec and data.coupling.codec), or make the couplings again"
        )


def _codec_name(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return public_path(Pixels)
    return " ".join(f"{value}" for value in facts.values() if value)
