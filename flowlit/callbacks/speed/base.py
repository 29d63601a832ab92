"""The networks that a callback about speed changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ...frozen import Frozen
from ...types import Objective


def networks(trainer: pl.Trainer, module: Any) -> Iterator[nn.Module]:
    """Yield the velocities at work: trained network, averages, frozen guides of objective and coupling."""
    flow = getattr(module, "flow", module)  # that of a ``PairPredictor``
    yield flow.network
    yield from (
        average
        for average in (getattr(flow, "ema", None), *getattr(flow, "averages", {}).values())
        if average is not None
    )
    coupling = getattr(getattr(trainer, "datamodule", None), "coupling", None)
    for holder in (coupling, *(part for part in flow.modules() if isinstance(part, Objective))):
        yield from (
            held.network for held in getattr(holder, "__dict__", {}).values() if isinstance(held, Frozen)
        )
