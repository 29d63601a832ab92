"""Work that one rank does for all, and numbers that all ranks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..errors import FlowlitError

T = TypeVar("T")


def on_rank_zero(trainer: pl.Trainer, work: Callable[[], T]) -> T | None:
    """Do some work on rank 0 while the others wait, for as long as it takes; they get None.

    A barrier would give up after half an hour, as groups do by default; and ranks would hang if rank 0
    failed.

    Raises:
        FlowlitError: on every rank, if the work raises it. Any other error is raised on rank 0, and its
            message as a FlowlitError on the others.
    """
    if trainer.world_size == 1 or not dist.is_initialized():
        return work()
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    message: list[str | None] = [None]
    result: T | None = None
    caught: Exception | None = None
    try:
        if trainer.is_global_zero:
            try:
                result = work()
            except Exception as error:
                caught = error
                message = [str(error)]
        dist.broadcast_object_list(message, src=0, group=group)
    finally:
        dist.destroy_process_group(group)
    if caught is not None:
        raise caught
    if message[0] is not None:
        raise FlowlitError(f"rank 0: {message[0]}")
    return result


def without_synchronisation(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Keep ``ddp`` from averaging gradients in a backward pass; ``average_gradients`` does it afterwards.

    DDP waits for the gradients of all parameters, and so for ever where networks are trained in turns.
    """
    strategy = trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()


def average_gradients(trainer: pl.Trainer, parameters: Iterable[Tensor]) -> None:
    """Replace the gradients (any shape) of parameters by their means over the ranks.

    Those of a sharded network are means already.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if trainer.world_size == 1 or not dist.is_initialized() or not gradients:
        return
    joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(joined)
    means = (joined / trainer.world_size).split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def gathered_objects(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gathered(trainer: pl.Trainer, tensor: Tensor) -> Tensor:
    """Return the tensors (…) of all ranks, which have one shape, on every rank: (world, …)."""
    if trainer.world_size == 1 or not dist.is_initialized():
        return tensor[None]
    tensors = [torch.empty_like(tensor) for _ in range(trainer.world_size)]
    dist.all_gather(tensors, tensor)
    return torch.stack(tensors)
