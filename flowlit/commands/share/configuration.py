"""``config.json`` of a shared folder: what the weights are of, for programs that do not read safetensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..._support.places import to_share
from ..._version import __version__
from ...data.provenance import trained_on
from ...metrics.cost import count_parameters
from ...networks.checkpoints.fingerprint import fingerprint
from ...networks.checkpoints.spec import spec

if TYPE_CHECKING:
    from ...generators import Generator


def configuration(generator: Generator) -> dict[str, Any]:
    """Return what a generator is made of."""
    return {
        "format": "flowlit-model",
        "version": 1,
        "flowlit": __version__,
        "network": spec(generator.network),
        "solver": spec(generator.solver),
        "codec": spec(generator.codec),
        "shape": generator.shape,
        "num_classes": generator.num_classes,
        "class_names": generator.class_names,
        "parameters": count_parameters(generator.network),
        "data": to_share(trained_on(generator.network)),
        "sha256": fingerprint(generator.network),
    }


def encoded(content: dict[str, Any]) -> bytes:
    """Return the JSON of a configuration."""
    return json.dumps(content, indent=1, default=str).encode() + b"\n"
