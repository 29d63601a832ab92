"""Batches completed on the device while the one before trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.data.sampler import Sampler


class PrefetchedBatch:
    """A batch under way to becoming a pair."""

    def __init__(self, future: Future[tuple[Any, torch.cuda.Event | None]]):
        self._future = future

    def result(self) -> Any:
        """Return the prepared batch; the device's stream waits for it, and not this thread."""
        prepared, ready = self._future.result()
        if ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(ready)
            for tensor in filter(torch.is_tensor, tree_leaves(prepared)):
                tensor.record_stream(stream)  # its memory must not be given away while this stream reads it
        return prepared


@dataclass(eq=False)
class Prefetcher:
    """Batches of a loader that are prepared one ahead: in a thread of its own, and on a GPU in a stream of
    its own.

    Args:
        loader: of the batches.
        prepare: (batch, its number) -> the result of its ``PrefetchedBatch``. It must not draw from PyTorch's
            global generator, which belongs to the training step.
        device: where it works.
        first: number of the first batch, computed whenever the loader is begun.
    """

    loader: DataLoader
    prepare: Callable[[Any, int], Any]
    device: torch.device
    first: Callable[[], int] = lambda: 0

    @property
    def sampler(self) -> Sampler:
        """The sampler of the loader, which Lightning sets the epoch of."""
        return self.loader.sampler  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[PrefetchedBatch]:
        batches = iter(self.loader)
        side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

        def work(batch: Any, number: int) -> tuple[Any, torch.cuda.Event | None]:
            with nullcontext() if side is None else torch.cuda.stream(side):
                prepared = self.prepare(batch, number)
                return prepared, None if side is None else side.record_event()

        with ThreadPoolExecutor(1, thread_name_prefix="lookahead") as pool:
            waiting: list[PrefetchedBatch] = []
            for number, batch in enumerate(batches, self.first()):
                waiting.append(PrefetchedBatch(pool.submit(work, batch, number)))
                if len(waiting) == 2:
                    yield waiting.pop(0)
            yield from waiting
