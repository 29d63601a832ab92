"""The global batch of an optimizer step: its division among devices and parts, and its draws."""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl

from .. import rng
from .._support.permutation import mix
from ..errors import FlowlitError


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimizer step, which devices share and each may take in several parts, and its draws.

    Every draw follows from the seed and the step. Batches are numbered as a device takes them, each part by
    itself.

    Args:
        size: rows in all.
        devices: that share them.
        accumulated: parts that each device takes one after the other, whose gradients add up.
        seed: of the run.
        attempt: times that training went back to an earlier step; with other draws it may not diverge again.
    """

    size: int
    devices: int = 1
    accumulated: int = 1
    seed: int = 0
    attempt: int = 0

    @property
    def rows(self) -> int:
        """Rows of one part on one device.

        Raises:
            FlowlitError: if the batch cannot be divided so.
        """
        if self.size % (self.devices * self.accumulated):
            raise FlowlitError(
                f"batch_size {self.size} is that of one optimizer step and must divide by "
                f"{self.devices} devices × {self.accumulated} accumulated batches"
            )
        return self.size // (self.devices * self.accumulated)

    def share(self, number: int, rank: int) -> rng.Share:
        """Return the rows that a device has in a batch, with the seed that all devices share."""
        step, part = divmod(number, self.accumulated)
        first = part * self.rows * self.devices + rank
        seed = mix(self.seed, 0, *self._attempt(), step)
        return rng.Share(seed, self.size, self.rows, first, self.devices)

    def own_seed(self, number: int, rank: int) -> int:
        """Return the seed of a device's other draws in a batch (dropout)."""
        step, part = divmod(number, self.accumulated)
        return mix(self.seed, 1 + rank, part, *self._attempt(), step)

    def _attempt(self) -> tuple[int, ...]:
        return (self.attempt,) if self.attempt else ()


def accumulation(batch_size: int, devices: int, limit: int) -> int:
    """Return the fewest parts of equal size in which no device works on more than ``limit`` rows at a time.

    >>> accumulation(128, devices=2, limit=24)
    4

    Raises:
        FlowlitError: if the devices cannot share the batch.
    """
    share, remainder = divmod(batch_size, devices)
    if remainder:
        raise FlowlitError(
            f"batch_size {batch_size} is that of one optimizer step and must divide by {devices} devices"
        )
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= limit)


def accumulate(trainer: pl.Trainer, batch_size: int, limit: int) -> None:
    """Let a trainer accumulate as ``device_batch_size`` says; validations stay as many optimizer steps apart.

    Raises:
        FlowlitError: if ``trainer.accumulate_grad_batches`` says something else.
    """
    accumulated = accumulation(batch_size, trainer.world_size, limit)
    if trainer.accumulate_grad_batches not in (1, accumulated):
        raise FlowlitError(
            f"device_batch_size {limit} of batch_size {batch_size} makes {accumulated} accumulated batches, "
            f"but trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}; give only one of "
            "the two"
        )
    if trainer.accumulate_grad_batches != accumulated and isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval *= accumulated  # Lightning counts batches
    trainer.accumulate_grad_batches = accumulated


def check_same_size(before: int, now: int, other: bool) -> None:
    """Refuse to go on from a checkpoint with batches of another size, unless other batches will do.

    Raises:
        FlowlitError: naming both options.
    """
    if before != now and not other:
        raise FlowlitError(
            f"the checkpoint was trained with batch_size {before}, now it is {now}; give --data.batch_size "
            f"{before} to go on exactly, or --data.new_batch_size true to go on with other batches"
        )


def check_filled(batch_size: int, rows: int, source: str) -> None:
    """Refuse fewer rows of a source than fill one batch.

    Raises:
        FlowlitError: naming the source.
    """
    if rows < batch_size:
        raise FlowlitError(f"{source}: {rows} rows cannot fill one batch of {batch_size}; lower batch_size")
