"""Small pieces of work: moving an average, statistics of features, and the command's help."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from flowlit.callbacks.training.ema import AveragedWeights
from flowlit.metrics.cost import count_parameters

from . import research
from .figure import Aim, Figure, bytes_a_second, floats_a_second, in_turns
from .processes import ROOT
from .report import Claim
from .statistics import features, flowlit_statistics
from .timing import median, spread, wall

HELP = {"--help": 0.3, "fit --help": 0.3}


def average_figures(
    network: nn.Module, device: str, repeats: int, times: int = 20, every: int = 4
) -> list[Figure]:
    """Average all weights after each step: a Python loop, flowlit, and flowlit every so many steps.

    The limit reads weights and average, and writes one.
    """
    network = deepcopy(network).to(device)
    twins = AveragedWeights(deepcopy(network).requires_grad_(False), network)
    averages = [parameter.detach().clone() for parameter in network.parameters()]

    def plain() -> None:
        for _ in range(times):
            research.move_averages(averages, network, 0.999999)

    @torch.no_grad()
    def ours(every: int) -> None:
        for step in range(times):
            if step % every == 0:
                twins.move(0.999999**every)

    def seconds(work: Callable[[], None]) -> float:
        return wall(work, device) / times

    work = {"research": plain, "flowlit": partial(ours, 1), "rarely": partial(ours, every)}
    for once in work.values():
        once()
    laps = in_turns({name: partial(seconds, of) for name, of in work.items()}, repeats)
    limit = 12 * count_parameters(network) / bytes_a_second(device)
    names = {
        "flowlit": ("average of the weights, each step", 1),
        "rarely": (f"the same, moved every {every} steps", every),
    }
    return [
        Aim(4, 8).figure(device, title, laps["research"], laps[name], "s", limit / steps, "bytes")
        for name, (title, steps) in names.items()
    ]


def statistics_figure(num: int, seed: int, device: str, repeats: int, dim: int = 2048) -> Figure:
    """Mean and covariance of features: NumPy in float64, flowlit on the device."""
    rows = torch.cat(list(features(num, dim, seed)))
    plain, there = rows.numpy(), rows.to(device)
    contenders = {
        "research": lambda: wall(lambda: research.statistics(plain)),
        "flowlit": lambda: wall(lambda: flowlit_statistics(there), device),
    }
    laps, limit = in_turns(contenders, repeats), 2 * num * dim**2 / floats_a_second(device, torch.float64)
    name = f"FID statistics, {num:,} features of dimension {dim:,}"
    return Aim(1, 4).figure(
        device, name, laps["research"], laps["flowlit"], "s", limit, "multiplications, float64"
    )


def command_seconds(cache: str, *words: str) -> float:
    """Seconds of a Python process with these arguments, from its start to its end; it finds the user's cache
    in this folder.
    """
    command, environment = [sys.executable, *words], {**os.environ, "XDG_CACHE_HOME": cache}
    return wall(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment))


def helps(repeats: int) -> tuple[list[dict[str, Any]], list[Claim]]:
    """Seconds of the command's help, and of the imports without which there is no other command."""
    commands = {f"flowlit {words}": ("-m", "flowlit", *words.split()) for words in HELP}
    imports = {f"import {name}": ("-c", f"import {name}") for name in ("torch", "lightning.pytorch")}
    with tempfile.TemporaryDirectory(prefix="flowlit-help-") as cache:
        first = {name: command_seconds(cache, *words) for name, words in commands.items()}
        turns = {
            name: partial(command_seconds, cache, *words) for name, words in {**commands, **imports}.items()
        }
        laps = in_turns(turns, repeats)  # type: ignore[arg-type]
    rows = [
        {"process": name, "seconds": median(of), "spread": spread(of), "first": first.get(name, "")}
        for name, of in laps.items()
    ]
    found = {f"flowlit {words}": (median(laps[f"flowlit {words}"]), most) for words, most in HELP.items()}
    found["flowlit fit --help, the first time"] = first["flowlit fit --help"], HELP["fit --help"]
    return rows, [
        Claim(name, f"≤ {most:g} s", f"{seconds:.2f} s", seconds <= most)
        for name, (seconds, most) in found.items()
    ]
