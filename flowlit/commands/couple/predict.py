"""Predict pairs: carry the end that a part begins with to the other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import cast

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from ...couplings.origins import Origin
from ...couplings.parts import Part, Parts, Solved
from ...couplings.store.plan import Shard
from ...couplings.store.writer import Store
from ...modules import FlowModule
from ...modules.samplers import StridedSampler
from ...types import Noise, Pair
from .trajectory import Stops, Watch


class PartData(pl.LightningDataModule):
    """The shards of a store that are still to be made, cut into batches, for ``flowlit couple``."""

    def __init__(self, origin: Origin, store: Store, batch_size: int):
        super().__init__()
        self.origin = origin
        self.store = store
        self.batch_size = batch_size

    @cached_property
    def missing(self) -> list[Shard]:
        """Shards that were missing when the store had been begun, which every file is read for, once."""
        return cast(pl.Trainer, self.trainer).strategy.broadcast(self.store.missing())

    def predict_dataloader(self) -> DataLoader:
        trainer = cast(pl.Trainer, self.trainer)
        missing = self.missing
        # with fewer shards than ranks, some are made twice, to the same bytes: an idle rank would break
        # Lightning's barriers
        ranks = max(1, min(trainer.world_size, len(missing)))
        parts = Parts(self.origin, missing[trainer.global_rank % ranks :: ranks], self.batch_size)
        return DataLoader(parts, batch_size=None, sampler=StridedSampler(range(len(parts))))


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """Switch gradients of all parameters off for a while.

    PyTorch chooses other kernels for weights that have gradients, and pairs would differ in their last bits
    from those of a frozen teacher.
    """
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


class PairPredictor(pl.LightningModule):
    """The first solver of a flow, forwards or in reverse, in Lightning's predict loop.

    Run it ``without_gradients``.

    Args:
        flow: whose velocity makes them.
        stops: where states of the solver are kept; None keeps the ends alone.
    """

    def __init__(self, flow: FlowModule, stops: Stops | None = None):
        super().__init__()
        self.flow = flow
        self.stops = stops

    def configure_model(self) -> None:
        """Leave the flow whole: only training divides it (``Sharded`` calls this hook)."""

    def predict_step(self, part: Part, batch_idx: int) -> Solved:
        x0 = part.x0
        x1 = part.x1
        nfe = torch.zeros_like(part.index)
        solver = next(iter(self.flow.solvers))
        watch = Watch(self.stops) if self.stops else None
        if x1 is None and x0 is not None:
            x1, nfe = self.flow.solve(solver, Noise(part.index, x0, part.cond), observe=watch)
        elif x0 is None and x1 is not None:
            x0, nfe = self.flow.solve(solver, Noise(part.index, x1, part.cond), reverse=True)
        assert x0 is not None and x1 is not None
        path = watch.path() if watch else None
        return Solved(part.shard, part.index, Pair(x0, x1, part.cond), nfe, path)
