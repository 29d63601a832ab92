"""Samples of a generator that takes several steps, in training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import rng
from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..paths.straight import endpoint, expand, interpolate
from ..ranges import Checked, Float, PositiveInt, short_record
from ..types import Pair, VelocityField

Renoise = Literal["fresh", "fixed", "ode"]


@short_record
class Rolled(NamedTuple):
    """Prediction of one step of a roll-out; each row has a step of its own."""

    x: Tensor  # (B, C, H, W): the sample, start + (1 - since) v(start, since), with its graph
    step: Tensor  # (B,) int64, from 0
    since: Tensor  # (B,): time at which the step starts
    until: Tensor  # (B,): time at which it ends, 1 for the last one
    start: Tensor  # (B, C, H, W): state at the start, without a graph


class Rollout(Checked):
    """Samples of a generator of k steps: for each row a step is drawn, and the steps before lead to it.

    The steps before have no gradient; they are those that the generator takes later, so that it trains on
    what it will meet. The network is called k times, once with gradient. Generate with the same steps:
    ``solvers.ReNoise`` for "fresh" and (``fresh: false``) "fixed", ``solvers.Euler`` for "ode".

    Args:
        k: steps.
        renoise: how a step goes on from the sample that it predicts, at the next time: with noise drawn
            "fresh", with that of the start ("fixed"), or along the velocity ("ode").
        times: k + 1, from 0 to 1, as ``solvers.grids.Given`` has them; None is a uniform grid.
    """

    def __init__(self, k: PositiveInt, renoise: Renoise = "fresh", times: list[Float] | None = None):
        self.k = k
        self.renoise: Renoise = renoise
        self.times = [index / k for index in range(k + 1)] if times is None else list(times)
        rises = all(earlier < later for earlier, later in itertools.pairwise(self.times))
        if len(self.times) != k + 1 or not rises or (self.times[0], self.times[-1]) != (0, 1):
            raise FlowlitError(
                f"Rollout: times are {self.times}; expected {k + 1} for k={k}, increasing from 0 to 1"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rollout) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.k, self.renoise, *self.times))

    def __call__(self, generator: VelocityField, pair: Pair, steps: Sequence[int] | None = None) -> Rolled:
        """Return samples from the noise of a pair, each of a step that is drawn among ``steps`` (all)."""
        x = start = pair.x0
        step = self._draw(x, steps)
        since = x.new_zeros(len(x))
        until = x.new_full((len(x),), self.times[1])
        with torch.no_grad():
            for index, (then, after) in enumerate(itertools.pairwise(self.times[1:])):
                x = self._advance(generator, pair, x, self.times[index], then)
                later = step > index
                start = torch.where(expand(later, x), x, start)
                since = torch.where(later, then, since)
                until = torch.where(later, after, until)
        v = evaluate(generator, start, since, pair.cond)
        return Rolled(endpoint(start, v, since), step, since, until, start)

    def _draw(self, x: Tensor, steps: Sequence[int] | None) -> Tensor:
        choice = range(self.k) if steps is None else steps
        if len(choice) == 1:  # nothing to draw: one step is as if there were no roll-out
            return torch.full((len(x),), choice[0], device=x.device)
        place = rng.randint(len(choice), len(x), x.device)
        return place if steps is None else torch.tensor(choice, device=x.device)[place]

    def _advance(self, generator: VelocityField, pair: Pair, x: Tensor, now: float, then: float) -> Tensor:
        t, t_next = (x.new_full((len(x),), time) for time in (now, then))
        v = evaluate(generator, x, t, pair.cond)
        if self.renoise == "ode":
            return x + expand(t_next - t, x) * v
        noise = rng.randn_like(x) if self.renoise == "fresh" else pair.x0
        return interpolate(noise, endpoint(x, v, t), t_next)
