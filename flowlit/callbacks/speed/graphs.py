"""CUDA graphs of networks that generate."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ..._support import cuda_graphs
from ...errors import FlowlitError
from ...ranges import Checked, PositiveInt
from .base import networks
from .compile import Compile, check_graphs


class CUDAGraphs(Checked, Callback):
    """Launch all kernels of a network at once, by a CUDA graph, where it is called without gradients.

    That is generation in ``validate``, ``test``, ``predict`` and ``couple``, guides, averages, and the
    teacher of pairs made on the fly. Made for small batches and small networks, where a GPU waits for kernels
    to be launched; the arithmetic is the same. Solvers of a fixed number of steps profit; RK45 works on fewer
    and fewer rows, most of which come only once.

    Training steps are not replayed: a graph overwrites what the previous call kept for its gradient.
    ``Compile`` has graphs for them. A teacher that works while the student trains (``data.overlap``) stays as
    it was, too.

    Args:
        most: sizes of batches for each network, first come first served; each holds the memory of one
            evaluation.
    """

    def __init__(self, most: PositiveInt = 4):
        self.most = most

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse graphs where they cannot be.

        Raises:
            FlowlitError: on a device without graphs, for sharded networks, or if ``Compile`` comes later.
        """
        check_graphs(trainer, "CUDAGraphs")
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(later, Compile) for later in callbacks[callbacks.index(self) :]):
            raise FlowlitError(
                "CUDAGraphs: put the callback Compile before CUDAGraphs, or compiling would throw the graphs "
                "away"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for network in networks(trainer, pl_module):
            cuda_graphs.replayed(network, self.most)

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for network in networks(trainer, pl_module):
            cuda_graphs.released(network)
