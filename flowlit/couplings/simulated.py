"""Pairs made on the fly: a frozen teacher is integrated inside every training step."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.data import Dataset

from ..frozen import Frozen
from ..networks.checkpoints.spec import build
from ..solvers.base import unchecked
from ..types import Codec, Coupling, Noise, Pair, Solver, Source, codec_of
from .flip import check_flip, random_flip
from .noise import SeededNoise
from .store.encoding import check_codec, codec_facts


class Simulated(Coupling):
    """(x0, ODE[teacher](x0)), solved in every training step: no disk, but each step pays for the teacher.

    With the same seed, solver and teacher these are the pairs that ``flowlit couple`` stores as float32, up
    to last bits. The first ones are refused if they are not finite. At later ones nothing looks, so that no
    step waits for a GPU; they would make a loss that is not finite.

    Args:
        teacher: a velocity, usually ``flowlit.networks.pretrained``.
        solver: of the teacher's ODE.
        noise: where x0 come from; its rows are the different pairs of an epoch.
        flip: mirror both ends of each pair with probability ½.
    """

    simulates = True
    generates = True

    def __init__(self, teacher: nn.Module, solver: Solver, noise: SeededNoise | Source, flip: bool = False):
        self.teacher = Frozen(teacher)
        self.solver = solver
        self.noise = noise
        self.flip = flip
        self._finite = False

    def dataset(self) -> Dataset:
        return self.noise

    def check_codec(self, codec: Codec) -> None:
        described = codec_of(self.teacher.network)
        if described is not None:
            check_codec(codec_facts(build(described, Codec)), codec, self.source)
        check_flip(self.flip, codec)

    def complete(self, batch: Noise, device: torch.device) -> Pair:
        with unchecked() if self._finite else nullcontext():
            x1 = self.solver(self.teacher, batch.x0, batch.cond).x1
        self._finite = True
        pair = Pair(batch.x0, x1, batch.cond)
        return random_flip(pair) if self.flip else pair

    @property
    def source(self) -> str:
        return f"pairs simulated by {self.teacher!r}"
