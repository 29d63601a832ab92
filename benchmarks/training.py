"""Steps of reflow and of distillation: a research script, flowlit, and the bare best loop, in turns."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowlit.metrics.cost import count_macs
from flowlit.networks import UNet

from .fast import BareLoop, Beside, fit
from .figure import PRODUCTS, Aim, Figure, floats_a_second
from .research import Training
from .timing import likely, median, quartiles

STEP, DISTILLED, LOOP = Aim(1.5, 5, share=0.35), Aim(1.5, 4), Aim(0.97, 0.97)


def student(arguments: dict[str, Any], seed: int) -> UNet:
    """A network with random weights."""
    torch.manual_seed(seed)
    return UNet(**{"dropout": 0.15, **arguments})


class Steps:
    """Seconds of training steps of one network on one set of pairs, turn by turn in one fit.

    Args:
        network: copied for each contender.
        store: the pairs on disk, for flowlit.
        pairs: the same in RAM, for the others.
        batch: pairs a step.
        turns: of each contender that count, after ``warm`` that do not.
        warm: turns before.
        block: steps of a turn.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        network: UNet,
        store: Path,
        pairs: tuple[Tensor, Tensor],
        batch: int,
        turns: int,
        warm: int,
        block: int,
        device: str,
    ):
        self.network, self.store, self.pairs, self.batch = network, store, pairs, batch
        self.turns, self.warm, self.block, self.device = turns, warm, block, device

    def _beside(self, others: dict[str, Any], guide: UNet | None = None) -> dict[str, list[float]]:
        watch = Beside(others, self.block, self.warm, self.device)
        steps = (self.warm + self.turns) * self.block
        fit(deepcopy(self.network), self.store, self.batch, steps + 1, self.device, watch, guide)
        return {
            name: laps[: self.turns] for name, laps in watch.laps.items()
        }  # the last step only ends the last turn

    def reflow(self) -> dict[str, list[float]]:
        """Annealing reflow: research script, bare loop, flowlit."""
        script = Training(deepcopy(self.network), *self.pairs, self.batch, self.device)
        bare = BareLoop(deepcopy(self.network), *self.pairs, self.batch, self.device)
        return self._beside({"research": script.steps, "bare": bare.steps})

    def distillation(self) -> dict[str, list[float]]:
        """Distillation with flow guidance by a network of the same kind: research script, flowlit."""
        guide, other = (deepcopy(self.network).requires_grad_(False) for _ in range(2))
        script = Training(deepcopy(self.network), *self.pairs, self.batch, self.device, guide)
        return self._beside({"research": script.steps}, other)

    def least(self, passes: int) -> float:
        """Seconds for the multiplications of so many forward passes at the measured rate of bfloat16;
        backward counts as two.
        """
        return (
            2
            * count_macs(self.network).all
            * self.batch
            * passes
            / floats_a_second(self.device, torch.bfloat16)
        )

    def figures(self) -> list[Figure]:
        """Reflow against the research script, and against the bare loop."""
        laps, name = self.reflow(), f"student step, annealing reflow, batch {self.batch}"
        step = STEP.figure(self.device, name, laps["research"], laps["flowlit"], "s", self.least(3), PRODUCTS)
        loop = LOOP.figure(
            self.device, "Lightning's loop over the bare best loop", laps["bare"], laps["flowlit"], "s"
        )
        return [step, loop]

    def distillation_figure(self) -> Figure:
        """Distillation against the research script; student twice with gradients, guide once without."""
        laps, name = self.distillation(), f"flow-guided distillation step, batch {self.batch}"
        return DISTILLED.figure(
            self.device, name, laps["research"], laps["flowlit"], "s", self.least(7), PRODUCTS
        )


def overhead(steps: Steps) -> list[dict[str, Any]]:
    """What a step of a small network takes with and without Lightning, in ms: the difference is the
    loop's.
    """
    laps = {name: [1000 * seconds for seconds in of] for name, of in steps.reflow().items()}
    laps["flowlit above bare"] = [
        ours - bare for ours, bare in zip(laps["flowlit"], laps["bare"], strict=True)
    ]
    return [
        {"what": name, "ms a step": median(of), "likely": likely(of), "half of the turns": quartiles(of)}
        for name, of in laps.items()
    ]
