"""The networks that a callback about speed changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ...frozen import Frozen
from ...types import Objective


def networks(trainer: pl.Trainer, module: Any) -> Iterator[nn.Module]:
    """Yield the networks at work: trained ones, averages, frozen guides of objective and coupling."""
    flow = getattr(module, "flow", module)  # that of a ``PairPredictor``
    yield from flow.networks()
    coupling = getattr(getattr(trainer, "datamodule", None), "coupling", None)
    for holder in (coupling, *(part for part in flow.modules() if isinstance(part, Objective))):
        values = getattr(holder, "__dict__", {}).values()
        yield from (value.network for value in values if isinstance(value, Frozen))
