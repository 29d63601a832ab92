"""A velocity at one time only, without the time path of its network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...errors import FlowlitError
from ...ranges import Probability
from ...types import Cond, reads_of, shape_of
from ..folding import fold_times
from .base import VelocityWrapper


class FixedTime(VelocityWrapper):
    """A velocity whose network is called at one t alone, as by ``Euler(1)``: (x, t, cond) -> (B, C, H, W).

    What depends on time is folded into biases, norms and tables of classes: the same numbers but for
    rounding, by fewer weights. ``flowlit export`` makes it; it is not for training, nor for solvers of
    several steps.

    Args:
        network: changed in place: ``UNet``, ``ADM`` or ``DiT``, or a wrapper around one; others stay as they
            are.
        t: the one time.
        r: the one second time, of a flow map; None if none is given.
    """

    def __init__(self, network: nn.Module, t: Probability = 0.0, r: Probability | None = None):
        super().__init__(network, t=t, r=r)
        self.t = t
        self.r = r
        weight = next(network.parameters(), torch.zeros(()))
        shape = shape_of(network) or (1, 1, 1)
        times = {"t": weight.new_full((1,), t, dtype=torch.float32)}
        cond: dict[str, Tensor] = {}
        for name in reads_of(network) or ():
            if name == "label":
                cond[name] = torch.zeros(1, dtype=torch.int64, device=weight.device)
            elif name == "image":
                cond[name] = weight.new_zeros(1, *shape)
        if r is not None:
            cond["r"] = weight.new_full((1,), r, dtype=torch.float32)
        x = weight.new_zeros(1, *shape)
        fold_times(network, lambda: network(x, times["t"], cond))

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …).

        Raises:
            FlowlitError: at another time.
        """
        self._check("t", t, self.t)
        if "r" in cond:
            self._check("r", cond["r"], self.r)
        return self.network(x, t, cond)

    def _check(self, name: str, given: Tensor, own: float | None) -> None:
        """Compare times, but in a graph that is being made."""
        unseen = torch.compiler.is_compiling() or isinstance(given, FakeTensor) or given.is_meta
        if unseen or (given.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        expected = None if own is None else torch.tensor(own, dtype=given.dtype)
        if expected is None or bool((given != expected).any()):
            raise FlowlitError(
                f"this network was folded for {name} = {own}, and is called at {float(given[0]):g}; generate "
                "with the solver of its file, or from the checkpoint that it was exported from"
            )
