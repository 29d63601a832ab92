"""The text encoder that a checkpoint describes."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ..._support.names import resolve
from ...errors import FlowlitError
from .spec import build


def encoder_from(described: dict[str, Any]) -> Any:
    """Return the ``flowlit.data.TextEncoder`` of a class_path, init_args and fingerprint, once for all equal.

    Raises:
        FlowlitError: if it cannot be built, or has other weights here.
    """
    return _built(json.dumps(described))


@lru_cache(4)
def _built(description: str) -> Any:
    described = json.loads(description)
    base = resolve("flowlit.data.TextEncoder")
    encoder = build({key: described.get(key) for key in ("class_path", "init_args")}, base)
    known = described.get("fingerprint")
    if known is not None and encoder.fingerprint != known:
        raise FlowlitError(
            f"{encoder!r} has other weights or another vocabulary than in training "
            f"({encoder.fingerprint[:8]}, expected {known[:8]}); put the encoder of training there"
        )
    return encoder
