"""A generator in float32 whose layers can be rounded, with the noise that it is calibrated on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from ..._support.progress import Bar
from ...couplings import SeededNoise
from ...metrics.base import FeatureExtractor
from ...solvers import Euler
from ...solvers.scaled import ScaledEuler
from ...types import Cond
from ..core import NoiseToImages
from ..export.features import features_of
from ..sampling import noise_shape
from .coefficients import Fitting, Scales
from .layers import Ranges, layers_of, measuring, rounding
from .sensitivity import Result

BATCH = 64
MOST_STEPS = 64
"""That take coefficients."""

MEASURED = 128
"""Images that harm is measured on, at most."""


class Subject:
    """A copy of a generator, and noise of a seed with balanced labels.

    Args:
        generator: as it is to be exported, its time path folded away.
        num: images to calibrate on.
        seed: of their noise.
        features: an extractor in whose features harm is measured, too.
    """

    def __init__(self, generator: NoiseToImages, num: int, seed: int, features: FeatureExtractor | None):
        network = deepcopy(generator.network).float().cpu().eval().requires_grad_(False)
        self.generator = replace(generator, network=network, precision="float32", blocks=False)
        self.layers = layers_of(network)
        self.features = features
        source = SeededNoise(noise_shape(generator), num, seed, generator.num_classes or 0)
        self.noise = [source.batch(range(i, min(num, i + BATCH))) for i in range(0, num, BATCH)]

    def run(self) -> Result:
        """Return what the network makes of the first of the noise now."""
        first = self.noise[: MEASURED // BATCH]
        with torch.no_grad():
            x1 = torch.cat([self.generator.solve(each.x0, each.cond).x1 for each in first])
        if self.features is None:
            return Result(x1, None)
        return Result(x1, features_of(self.features, self.generator.codec.decode(x1)))

    def ranges(self) -> dict[str, Ranges]:
        """Return the values that go into each layer and come out of it; layers never called are forgotten."""
        with measuring(self.layers) as ranges, torch.no_grad():
            for each in Bar(self.noise, desc="Calibration", unit=" batches", leave=False):
                self.generator.solve(each.x0, each.cond)
        called = {name: place for name, place in ranges.items() if place.inputs.low <= place.inputs.high}
        self.layers = {name: self.layers[name] for name in called}
        return called

    def features_of_states(self, x1: Tensor) -> Tensor:
        """Return features (B, d) of ends of steps x1 (B, c, h, w)."""
        assert self.features is not None
        return features_of(self.features, self.generator.codec.decode(x1))

    def steps(self) -> int:
        """Return the number of the solver's steps; 0 where they take no coefficients, as ``Euler``'s do."""
        solver = self.generator.solver
        return solver.steps if type(solver) is Euler and solver.steps <= MOST_STEPS else 0

    def scaled(self, scales: list[Scales]) -> NoiseToImages:
        """Return the generator with a solver of these coefficients."""
        solver = self.generator.solver
        assert isinstance(solver, Euler)
        pairs = [list(pair) for pair in scales]
        return replace(self.generator, solver=ScaledEuler(solver.steps, solver.rho, pairs, grid=solver.grid))

    @torch.no_grad()
    def fitted(
        self,
        fit: Fitting,
        bits: Mapping[str, int],
        ranges: Mapping[str, Ranges],
    ) -> list[Scales]:
        """Return the coefficients of each step that a fit chooses, in their order.

        Each is fitted on states that the rounded network reaches with those before.
        """
        solver = self.generator.solver
        assert isinstance(solver, Euler)
        x0 = torch.cat([each.x0 for each in self.noise])
        names = self.noise[0].cond
        cond = {name: torch.cat([each.cond[name] for each in self.noise]) for name in names}
        states = [x0, x0]
        scales = []
        for t, t_next in itertools.pairwise(solver.times()):
            target = states[0] + (t_next - t) * self._velocity(states[0], t, cond)
            with rounding(self.layers, bits, ranges):
                move = (t_next - t) * self._velocity(states[1], t, cond)
            a, b = fit(states[1], move, target)
            scales.append((a, b))
            states = [target, a * states[1] + b * move]
        return scales

    def _velocity(self, x: Tensor, t: float, cond: Cond) -> Tensor:
        network = self.generator.network
        parts = []
        for i in range(0, len(x), BATCH):
            rows = slice(i, i + BATCH)
            time = torch.full((len(x[rows]),), t)
            parts.append(network(x[rows], time, {name: value[rows] for name, value in cond.items()}))
        return torch.cat(parts)
