"""Steps of reflow and of distillation: a research script, flowlit, and the bare best loop, in turns."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlit.metrics.cost import count_macs
from flowlit.networks import UNet

from .fast import BareLoop, fit_seconds
from .figure import PRODUCTS, Aim, Figure, floats_a_second, in_turns
from .research import Training
from .timing import median, spread, wall

STEP, DISTILLED, LOOP = Aim(1.5, 5, share=0.35), Aim(1.5, 4), Aim(0.97, 0.97)


def student(arguments: dict[str, Any], seed: int) -> UNet:
    """A network with random weights."""
    torch.manual_seed(seed)
    return UNet(**{"dropout": 0.15, **arguments})


class Steps:
    """Seconds of training steps of one network on one set of pairs.

    Args:
        network: copied for each contender.
        store: the pairs on disk, for flowlit.
        pairs: the same in RAM, for the others.
        batch: pairs a step.
        count: steps of a turn.
        warm: steps before those that count, in each turn of flowlit and of the bare loop.
        repeats: turns of each contender.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        network: UNet,
        store: Path,
        pairs: tuple[Tensor, Tensor],
        batch: int,
        count: int,
        warm: int,
        repeats: int,
        device: str,
    ):
        self.network, self.store, self.pairs, self.batch = network, store, pairs, batch
        self.count, self.warm, self.repeats, self.device = count, warm, repeats, device

    def _script(self, guide: UNet | None = None) -> Training:
        script = Training(deepcopy(self.network), *self.pairs, self.batch, self.device, guide)
        script.steps(self.warm)
        return script

    def _research(self, script: Training) -> float:
        return wall(lambda: script.steps(self.count), self.device) / self.count

    def _bare(self) -> float:
        """Begun anew in each turn, as the fit is: both find their memory untouched."""
        loop = BareLoop(deepcopy(self.network), *self.pairs, self.batch, self.device)
        return loop.seconds(self.count, self.warm)

    def _flowlit(self, guide: UNet | None = None) -> float:
        network = deepcopy(self.network)
        return fit_seconds(network, self.store, self.batch, self.count, self.warm, self.device, deepcopy(guide))

    def reflow(self) -> dict[str, list[float]]:
        """Annealing reflow: research script, bare loop, flowlit."""
        script = self._script()
        contenders = {"research": lambda: self._research(script), "bare": self._bare, "flowlit": self._flowlit}
        return in_turns(contenders, self.repeats)

    def distillation(self) -> dict[str, list[float]]:
        """Distillation with flow guidance by a network of the same kind: research script, flowlit."""
        guide = deepcopy(self.network).requires_grad_(False)
        script = self._script(deepcopy(guide))
        return in_turns({"research": lambda: self._research(script), "flowlit": lambda: self._flowlit(guide)}, self.repeats)

    def least(self, passes: int) -> float:
        """Seconds for the multiplications of so many forward passes at the measured rate of bfloat16; backward counts as two."""
        return 2 * count_macs(self.network).all * self.batch * passes / floats_a_second(self.device, torch.bfloat16)

    def figures(self) -> list[Figure]:
        """Reflow against the research script, and against the bare loop."""
        laps, name = self.reflow(), f"student step, annealing reflow, batch {self.batch}"
        step = STEP.figure(self.device, name, laps["research"], laps["flowlit"], "s", self.least(3), PRODUCTS)
        loop = LOOP.figure(self.device, "Lightning's loop over the bare best loop", laps["bare"], laps["flowlit"], "s")
        return [step, loop]

    def distillation_figure(self) -> Figure:
        """Distillation against the research script; student twice with gradients, guide once without."""
        laps, name = self.distillation(), f"flow-guided distillation step, batch {self.batch}"
        return DISTILLED.figure(self.device, name, laps["research"], laps["flowlit"], "s", self.least(7), PRODUCTS)


def overhead(steps: Steps) -> list[dict[str, Any]]:
    """What a step of a small network takes with and without Lightning, in ms: the difference is the loop's."""
    laps = {name: [1000 * seconds for seconds in of] for name, of in steps.reflow().items()}
    laps["flowlit above bare"] = [ours - bare for ours, bare in zip(laps["flowlit"], laps["bare"], strict=True)]
    return [{"what": name, "ms a step": median(of), "spread": spread(of)} for name, of in laps.items()]
