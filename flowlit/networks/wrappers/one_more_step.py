"""A step before the first of a diffusion, from noise that its network never saw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..._support.nested import rows_of
from ..._support.velocities import evaluate
from ..._support.wrapped import inside
from ...errors import FlowlitError
from ...paths.straight import expand
from ...ranges import Share
from ...types import Cond, VelocityField, classes_of, evaluations_of, reads_of, shape_of
from ..checkpoints.spec import spec
from .base import VelocityWrapper
from .diffusion import DiffusionVelocity

Through = Callable[[nn.Module], VelocityField]


class OneMoreStep(VelocityWrapper):
    """A velocity whose way out of pure noise is a second, small network's: (x, t, cond) -> (B, C, H, W).

    A variance-preserving diffusion ends short of noise: its network has always seen a trace of the data, of
    the mean color above all, and misses it when it generates. Before its noisiest level, t < ``until``, the
    velocity is (x̂ - x) / (1 - t) to the data x̂ = x + first(x, 0). That is One More Step (2311.15744), whose
    deterministic step is one of Euler's here; from ``until`` on it is the network alone.

    Train ``first`` at t = 0 alone, on noise that is independent of the data: ``RectifiedFlow`` with ``times:
    Grid(1)``. Its best x̂ is the mean of the data under the condition. On a straight path, whose networks
    saw pure noise, it is a learned analytic first step, and spares an evaluation of the large network; wrong
    for reflowed and distilled ones.

    Not for CUDA graphs, as its way depends on t; compiled or exported, both are computed in each call. In
    NFE an evaluation of ``first`` counts as one of the network.

    Args:
        network: the velocity from ``until`` on.
        first: a velocity that is called at t = 0; without labels it gets none.
        until: time from which on the network was trained; None is that of the noisiest level of a
            ``DiffusionVelocity``.

    Raises:
        FlowlitError: if both differ in shape or classes, or ``until`` is needed.
    """

    def __init__(self, network: nn.Module, first: nn.Module, until: Share | None = None):
        if until is None:
            until = _noisiest(network)
        own = shape_of(network)
        other = shape_of(first)
        if own and other and tuple(own) != tuple(other):
            raise FlowlitError(
                f"OneMoreStep: first takes images of shape {tuple(other)}; expected {tuple(own)}, as the "
                "network does"
            )
        if classes_of(first) not in (0, None, classes_of(network)):
            raise FlowlitError(
                f"OneMoreStep: first knows {classes_of(first)} classes; expected those of the network, "
                f"{classes_of(network) or 0}, or none"
            )
        super().__init__(network, first=spec(first), until=until)
        if spec(first) is None and hasattr(self, "spec"):
            del self.spec
        self.first = first
        self.until = until

    @property
    def evaluations(self) -> int:
        """Network evaluations a call, those of the costlier of both."""
        return max(evaluations_of(self.network), evaluations_of(self.first))

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under conditions (B, …)."""
        return self.routed(x, t, cond)

    def routed(
        self, x: Tensor, t: Tensor, cond: Cond = {}, through: Through = lambda network: network
    ) -> Tensor:
        """Return the velocity (B, C, H, W) likewise, of networks that are called through something else."""
        if torch.compiler.is_compiling():  # a graph chooses no way: it has both
            both = self._towards_data(through, x, t, cond), evaluate(through(self.network), x, t, cond)
            return torch.where(expand(t < self.until, x), *both)
        if isinstance(t, FakeTensor) or t.is_meta:  # shapes alone are followed
            return evaluate(through(self.network), x, t, cond)
        early = t < self.until
        if early.all():
            return self._towards_data(through, x, t, cond)
        if not early.any():
            return evaluate(through(self.network), x, t, cond)
        before, after = (rows.nonzero().squeeze(1) for rows in (early, ~early))
        parts = [
            self._towards_data(through, x[before], t[before], rows_of(cond, before)),
            evaluate(through(self.network), x[after], t[after], rows_of(cond, after)),
        ]
        return torch.cat(parts)[torch.cat([before, after]).argsort()]

    def _towards_data(self, through: Through, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the velocity (B, C, H, W) of a straight line to the predicted data."""
        reads = reads_of(self.first)
        if classes_of(self.first) == 0 or (reads is not None and "label" not in reads):
            cond = {name: value for name, value in cond.items() if name != "label"}
        v = evaluate(through(self.first), x, torch.zeros_like(t), cond)
        return v / expand(1 - t, v).to(v.dtype)


def _noisiest(network: nn.Module) -> float:
    """Return the time of the noisiest level of a diffusion's network, perhaps inside other wrappers."""
    for part in inside(network):
        if isinstance(part, DiffusionVelocity):
            return 1 / (1 + part.diffusion.range[1])
    raise FlowlitError(
        f"OneMoreStep: {type(network).__name__} has no noisiest level; give until, the time before which it "
        "shall not be called, up to the solver's first step"
    )
