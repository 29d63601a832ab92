"""Networks that are no velocities, and descriptions of training data that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from commandline import in_process
from torch import nn

from flowlit.couplings.store.schema import MANIFEST
from flowlit.metrics.reference import PROTOCOL
from flowlit.modules.trial import try_out
from flowlit.networks.checkpoints.facts import FACTS

from .row import Row
from .stores import GOOD


class Returning(nn.Module):
    """A network that computes anything at all."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: Any = {}) -> Any:
        return self.function(x, t, cond)


def _raise(error: Exception) -> Any:
    raise error


def _called(function: Callable[..., Any]) -> Callable[[Path], Any]:
    x = torch.zeros(2, 3, 8, 8)
    cond = {"label": torch.zeros(2, dtype=torch.int64)}
    return lambda folder: try_out(Returning(function), x, cond, nullcontext())


RETURNED: dict[str, Callable[..., Any]] = {
    "nothing": lambda x, t, cond: None,
    "a number": lambda x, t, cond: 0.0,
    "a scalar": lambda x, t, cond: x.mean(),
    "one number a row": lambda x, t, cond: x.mean((1, 2, 3)),
    "one channel": lambda x, t, cond: x[:, :1],
    "six channels": lambda x, t, cond: torch.cat([x, x], 1),
    "one row": lambda x, t, cond: x[:1],
    "half the size": lambda x, t, cond: x[..., ::2, ::2],
    "channels last": lambda x, t, cond: x.permute(0, 2, 3, 1),
    "flat rows": lambda x, t, cond: x.flatten(1),
    "a pair": lambda x, t, cond: (x, t),
    "a list": lambda x, t, cond: [x],
    "a mapping": lambda x, t, cond: {"sample": x},
    "whole numbers": lambda x, t, cond: x.long(),
    "complex numbers": lambda x, t, cond: x.to(torch.complex64),
    "truth values": lambda x, t, cond: x > 0,
    "an array": lambda x, t, cond: np.zeros(x.shape),
}
RAISED: dict[str, tuple[Callable[..., Any], str]] = {
    "a missing condition": (lambda x, t, cond: cond["lr"], "KeyError: 'lr'"),
    "a missing attribute": (lambda x, t, cond: x.sample, "AttributeError"),
    "an index": (lambda x, t, cond: x[:, 7], "IndexError"),
    "shapes that do not fit": (lambda x, t, cond: x @ torch.zeros(5, 5), "RuntimeError"),
    "times as images": (lambda x, t, cond: t.reshape(2, 3, 8, 8), "RuntimeError"),
    "an assertion": (lambda x, t, cond: _raise(AssertionError()), "AssertionError: no reason given"),
    "many lines": (lambda x, t, cond: _raise(ValueError("first\n" * 99)), "ValueError: first"),
    "a name": (lambda x, t, cond: undefined, "NameError"),  # type: ignore[name-defined] # noqa: F821
    "division": (lambda x, t, cond: x / (1 // 0), "ZeroDivisionError"),
}
DESCRIPTIONS: dict[str, Any] = {
    "a text": "Digits",
    "a list": ["Digits", 40],
    "a number": 40,
    "empty": {},
    "no name": {"fingerprint": "f"},
    "no fingerprint": {"name": "Digits"},
    "a name of numbers": {"name": 3, "fingerprint": "f"},
    "a fingerprint of bytes": {"name": "Digits", "fingerprint": [1, 2]},
    "less than no images": {"name": "Digits", "fingerprint": "f", "images": -1},
    "half an image": {"name": "Digits", "fingerprint": "f", "images": 0.5},
    "images in words": {"name": "Digits", "fingerprint": "f", "images": "many"},
    "more images than there are": {"name": "Digits", "fingerprint": "f", "images": 10**30},
    "a part by number": {"name": "Digits", "fingerprint": "f", "part": 1},
}
READERS: dict[str, Callable[[Any], Any]] = {
    "a store": lambda data: MANIFEST.parse(json.dumps({**GOOD, "data": data}), "x"),
    "a reference": lambda data: PROTOCOL.parse(
        json.dumps({"format": "flowlit-reference", "version": 1, "data": data}), "x"
    ),
    "a checkpoint": lambda data: FACTS.parse(json.dumps({"data": data}), "x"),
}


def _fresh(*words: str) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        path = tiny.write(folder / "x.yaml", tiny.fit(folder / "run", limit_val_batches=1.0))
        return in_process(*words[:1], "-c", path, *words[1:])

    return attempt


ROWS = [
    *(
        Row(f"network: returns {name}", _called(function), ("Returning returned", "(2, 3, 8, 8)"))
        for name, function in RETURNED.items()
    ),
    *(
        Row(f"network: raises for {name}", _called(function), ("Returning fails", "x (2, 3, 8, 8)", words))
        for name, (function, words) in RAISED.items()
    ),
    *(
        Row(f"training data: {name} in {place}", lambda folder, read=read, data=data: read(data), ("data",))
        for name, data in DESCRIPTIONS.items()
        for place, read in READERS.items()
    ),
    Row("weights: fresh ones", _fresh("validate"), ("UNet has fresh weights", "--ckpt_path", "--untrained")),
    Row("weights: untrained perhaps", _fresh("validate", "--untrained", "perhaps"), ("untrained", "perhaps")),
    Row("weights: a fit of untrained ones", _fresh("fit", "--untrained", "true"), ("--untrained", "trains")),
]
