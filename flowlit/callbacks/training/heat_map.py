"""A map of the loss: training time over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._support.formatting import in_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 256
"""Of a map, at most; beyond, neighbours become one, so that long runs need no more room."""


class History:
    """Means in B bins of t, a column for each time that they were logged.

    Args:
        bins: of [0, 1].
    """

    def __init__(self, bins: int):
        self.steps = torch.zeros(0, dtype=torch.int64)
        self.columns = torch.zeros(0, bins)  # NaN where a bin has no sample

    def add(self, step: int, column: Tensor) -> None:
        """Add the means that were logged at a step, of shape (B,)."""
        self.steps = torch.cat([self.steps, torch.tensor([step])])
        self.columns = torch.cat([self.columns, column[None]])
        if len(self.steps) > COLUMNS:
            even = len(self.steps) // 2 * 2
            pairs = self.columns[:even].unflatten(0, (-1, 2)).nanmean(1)
            self.columns = torch.cat([pairs, self.columns[even:]])
            self.steps = torch.cat([self.steps[1:even:2], self.steps[even:]])

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: steps (N,) and means (N, B)."""
        return {"steps": self.steps, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over steps (N,) and means (N, B) of a checkpoint, if it has as many bins."""
        if state and state["columns"].shape[1:] == self.columns.shape[1:]:
            self.steps = state["steps"]
            self.columns = state["columns"]


def draw(histories: Mapping[str, History]) -> Figure:
    """Draw maps side by side, steps across, t upwards, the loss as colour; of at least two columns."""
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and needs a display

    figure = Figure(figsize=(6 * len(histories), 3.4), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(histories), squeeze=False)[0]
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        values = history.columns.T.numpy()
        seen = history.columns[history.columns.isfinite()]
        scale = "log" if len(seen) and seen.min() > 0 else "linear"
        ends = (history.steps + 1).tolist()
        across = [max(0, 2 * ends[0] - ends[1]), *ends]  # the first is as wide as the second
        upwards = torch.linspace(0, 1, len(values) + 1).tolist()
        mesh = axes.pcolormesh(across, upwards, values, norm=scale, cmap="viridis")
        figure.colorbar(mesh, ax=axes, label="loss")
        axes.set(title=f"loss over t {in_figure(name)}".strip(), xlabel="step", ylabel="t (noise 0, data 1)")
    return figure
