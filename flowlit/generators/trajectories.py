"""States of a solver on the way from noise to an image."""

from __future__ import annotations

import torch
from torch import Tensor

from .core import NoiseToImages
from .sampling import Rows, check_memory


class StatesOverTime:
    """An observer of a solver that keeps the states of one sample at given times.

    Between the states of the solver they are on straight lines, as those of Euler's rule are.

    Args:
        x0: (1, c, h, w), where the solver starts.
        times: rising, from 0 to 1.
    """

    def __init__(self, x0: Tensor, times: list[float]):
        self.times = times
        self.states: list[Tensor] = []
        self._last = (0.0, x0)

    def __call__(self, t: Tensor, x: Tensor, v: Tensor) -> None:
        """Take a state x (1, c, h, w) at t (1,), where a step begins."""
        self.reach(float(t[0]), x)

    def reach(self, t: float, x: Tensor) -> None:
        """Keep the states between the last one and x (1, c, h, w) at t."""
        before, state = self._last
        for time in self.times[len(self.states) :]:
            if time > t:
                break
            share = (time - before) / (t - before) if t > before else 1.0
            self.states.append(torch.lerp(state.to(x), x, share))
        self._last = (t, x)


@torch.no_grad()
def trajectories(generator: NoiseToImages, rows: Rows, steps: int) -> Tensor:
    """Return the images of states at ``steps`` equal times from 0 to 1, uint8 (N, steps, C, H, W).

    The first is noise, the last the image that ``sample`` returns.

    Args:
        generator: whose solver is followed, one sample at a time: each may have steps of its own.
        rows: to start from.
        steps: at least 2.

    Raises:
        FlowlitError: if the memory cannot hold so many.
    """
    check_memory(rows.num * steps, rows.shape, "states", 4)
    times = [step / (steps - 1) for step in range(steps)]
    ways = []
    for row in range(rows.num):
        noise = rows.batch(range(row, row + 1))
        x0 = noise.x0.to(generator.device)
        observer = StatesOverTime(x0, times)
        end = generator.solve(x0, noise.cond, observe=observer).x1
        observer.reach(1.0, end)
        ways.append(generator.codec.decode(torch.cat(observer.states)).cpu())
    return torch.stack(ways)
