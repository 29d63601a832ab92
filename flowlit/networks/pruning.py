"""Slim students from teachers: the blocks that matter least are dropped, the others keep their weights.

A block matters by how far the velocity is from the teacher's without it, along the teacher's own way from
noise to images; no images are needed. After each one that is dropped the others are measured again. The idea
is that of Protenix-Mini (2507.11839), whose measure is not public; likeness of a block's input and output,
which is often taken, does not rank the blocks of U-Nets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._support.modes import evaluating
from .._support.progress import Bar
from .._support.velocities import OWN_CONDITIONS
from ..errors import FlowlitError
from ..ranges import PositiveInt, Seed
from ..solvers.runge_kutta import Euler
from ..types import Cond, classes_of, reads_of, shape_of
from .checkpoints.contents import Weights
from .checkpoints.load import pretrained
from .skipping import removable, skipping
from .wrappers.pruned import Pruned

LeaveOut = Callable[[nn.Module, Sequence[str]], AbstractContextManager[None]]


class States(NamedTuple):
    """States on the way of a teacher, x (B, C, H, W) at t (B,) with velocities v (B, C, H, W), by step."""

    steps: list[tuple[Tensor, Tensor, Tensor]]
    cond: Cond


def pruned(
    checkpoint: str,
    drop: PositiveInt | list[str],
    weights: Weights = "ema",
    num: PositiveInt = 64,
    steps: PositiveInt = 8,
    seed: Seed = 0,
) -> nn.Module:
    """Take the network of a checkpoint without the blocks that matter least, to begin a slim student.

    Which these are is measured by ``least_important``. Like ``pretrained``, it initialises a training, and is
    of little use without: the velocity is no longer the teacher's. ``Pruned`` is the same architecture with
    fresh weights.

    Args:
        checkpoint: of the teacher, as ``pretrained`` reads it.
        drop: so many blocks, one after the other; or their names, of which nothing is measured then.
        weights: "ema", "raw", or the name of another average.
        num: noises to measure on.
        steps: times on their way, from Euler's rule.
        seed: of the noise.

    Raises:
        FlowlitError: as ``pretrained``; if the network has not so many blocks that can be left out, or reads
            more than labels.
    """
    network = pretrained(checkpoint, weights)
    if isinstance(drop, list):
        return Pruned(network, drop)
    known = removable(network)
    if drop > len(known):
        raise FlowlitError(
            f"pruned: drop is {drop}, but only {len(known)} blocks of {checkpoint} can be left out: "
            f"{', '.join(known)}"
        )
    states = states_of(network, num, steps, seed)
    return Pruned(network, [name for name, _ in least_important(network, states, drop)])


@torch.no_grad()
def states_of(network: nn.Module, num: int = 64, steps: int = 8, seed: int = 0) -> States:
    """Return states on a network's own way from noise to images, with balanced labels.

    Raises:
        FlowlitError: if its shape is not known, or it reads more than labels.
    """
    others = sorted((reads_of(network) or frozenset()) - OWN_CONDITIONS)
    shape = shape_of(network)
    if others or shape is None:
        lack = f"reads {', '.join(others)}" if others else "has no attribute `shape`"
        raise FlowlitError(
            f"pruned: the network {lack}, so that it cannot be measured; give drop as names of blocks"
        )
    weight = next(network.parameters())
    x0 = torch.randn(num, *shape, generator=torch.Generator().manual_seed(seed)).to(weight.device)
    classes = classes_of(network) or 0
    cond: Cond = {"label": torch.arange(num, device=weight.device) % classes} if classes else {}
    states: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(t: Tensor, x: Tensor, v: Tensor) -> None:
        states.append((x.clone(), t.clone(), v.clone()))

    with evaluating(network):
        Euler(steps)(network, x0, cond, observe=keep)
    return States(states, cond)


@torch.no_grad()
def harms(
    network: nn.Module, states: States, names: Sequence[str], leave_out: LeaveOut = skipping
) -> dict[str, list[float]]:
    """Return, for each part and each step, the distance of the velocity without it: ‖v' - v‖² / Σ ‖v‖².

    Args:
        network: as it is, parts that were left out before included.
        states: with the velocities v of the whole teacher.
        names: of parts that can be left out.
        leave_out: leaves parts of the network out for a while, by these names.
    """
    total = max(sum(float(v.double().square().sum()) for _, _, v in states.steps), 1e-30)
    distances = {}
    with evaluating(network):
        for name in names:
            with leave_out(network, [name]):
                distances[name] = [
                    float((network(x, t, states.cond) - v).double().square().sum()) / total
                    for x, t, v in states.steps
                ]
    return distances


def importance(network: nn.Module, states: States, names: Sequence[str]) -> dict[str, float]:
    """Return, for each part, the distance of the velocity without it: E‖v' - v‖² / E‖v‖², over all states.

    Args:
        network, states, names: as ``harms``.
    """
    return {name: sum(steps) for name, steps in harms(network, states, names).items()}


def least_important(network: nn.Module, states: States, drop: int) -> Iterator[tuple[str, float]]:
    """Yield the parts that are dropped, one after the other, and how far the velocity is without all so far.

    Args:
        network: of the teacher, which comes back whole.
        states: of it.
        drop: number of parts, at most those that are ``removable``.
    """
    names = removable(network)
    gone: list[str] = []
    with Bar(total=drop, desc="Measuring blocks", unit=" blocks", delay=1.0, leave=False) as bar:
        for _ in range(drop):
            with skipping(network, gone):
                left = [name for name in names if name not in gone]
                distances = importance(network, states, left)
            name = min(left, key=distances.__getitem__)
            gone.append(name)
            bar.update()
            yield name, distances[name]
