"""Random draws of a training step, the same for any number of devices and accumulated batches that share it.

Each draw is made for the whole batch of the optimizer step, by a generator that belongs to the step, and a
device keeps its own rows. Outside a step, as in a notebook, PyTorch's global generator draws.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

Device = torch.device | str


@dataclass
class Share:
    """Rows of an optimizer step's batch on one device: ``first``, ``first + stride``, ….

    Args:
        seed: of the step, the same on every device.
        total: rows of the whole batch.
        rows: number of rows here.
        first: index of the first row here.
        stride: distance from one row to the next, which is the number of devices.
    """

    seed: int
    total: int
    rows: int
    first: int = 0
    stride: int = 1
    _generators: dict[torch.device, torch.Generator] = field(default_factory=dict)

    def generator(self, device: Device) -> torch.Generator:
        """Return the step's generator on a device, which goes on where its last draw ended."""
        device = torch.device(device)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def cut(self, drawn: Tensor) -> Tensor:
        """Return the rows here, (rows, ...), of draws for the whole batch, (total, ...)."""
        return drawn[self.first :: self.stride][: self.rows]


_share: ContextVar[Share | None] = ContextVar("share", default=None)


def seed(device: torch.device, number: int) -> None:
    """Seed PyTorch's global generators of the host and of one device.

    It takes a hundredth of the time of ``torch.manual_seed``, which seeds those of all devices.
    """
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(number)


def begin(share: Share | None) -> None:
    """Draw for a share of a batch from now on, in this thread; None for PyTorch's global generator."""
    _share.set(share)


def _rows(draw: Callable[[int, torch.Generator | None], Tensor], n: int, device: Device) -> Tensor:
    share = _share.get()
    if share is None:
        return draw(n, None)
    if n != share.rows:  # not one for each row of the batch: nothing to divide
        return draw(n, share.generator(device))
    return share.cut(draw(share.total, share.generator(device)))


def randn_like(x: Tensor) -> Tensor:
    """Draw N(0, 1) for each entry of x (B, ...), in its dtype."""
    shape = x.shape[1:]
    drawn = _rows(lambda n, g: torch.randn((n, *shape), generator=g, device=x.device), len(x), x.device)
    return drawn.to(x.dtype)


def randn(n: int, device: Device = "cpu") -> Tensor:
    """Draw from N(0, 1), (n,) float32."""
    return _rows(lambda n, g: torch.randn(n, generator=g, device=device), n, device)


def rand(n: int, device: Device = "cpu") -> Tensor:
    """Draw uniformly from [0, 1), (n,) float32."""
    return _rows(lambda n, g: torch.rand(n, generator=g, device=device), n, device)


def randint(high: int, n: int, device: Device = "cpu") -> Tensor:
    """Draw uniformly from 0 … high - 1, (n,) int64."""
    return _rows(lambda n, g: torch.randint(high, (n,), generator=g, device=device), n, device)
