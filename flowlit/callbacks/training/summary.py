"""One line about the networks of a fit."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ...metrics.cost import count_parameters
from ...ranges import Checked


class Summary(Checked, Callback):
    """Print the size of the network that is trained, of a critic, and which averages are kept.

    It is there unless ``trainer.enable_model_summary`` is false or Lightning's ``ModelSummary``, whose table
    counts averages as weights that cannot be trained, is configured.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        rank_zero_info(f"flowlit: {summary(pl_module)}")


def summary(module: Any) -> str:
    """Return the networks of a module and its averages as one line."""
    critic = getattr(getattr(module, "critic", None), "network", None)
    averages = getattr(getattr(module, "averages", None), "metadata", {})
    parts = [f"network {_size(getattr(module, 'network', module))}"]
    parts += [] if critic is None else [f"critic {_size(critic)}"]
    parts += [f"averages: {', '.join(averages)}"] if averages else []
    return "; ".join(parts)


def _size(network: nn.Module) -> str:
    """Return the class of a network, its parameters, and how many of them are not trained."""
    fixed = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    without = getattr(network, "without", ())
    name = type(network).__name__ + (f" without {', '.join(without)}" if without else "")
    total = f"{name}, {count_parameters(network):,} parameters"
    return f"{total}, {fixed:,} of them frozen" if fixed else total
