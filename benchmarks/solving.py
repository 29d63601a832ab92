"""Making pairs at equal error: Adams' multistep solver, and SciPy's RK45 on the whole batch, on a teacher
trained here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowlit.callbacks import EMA
from flowlit.couplings import Independent
from flowlit.couplings.noise import seeded_normals
from flowlit.data import Digits
from flowlit.metrics.cost import count_macs
from flowlit.modules import FlowDataModule, Teacher
from flowlit.networks import UNet
from flowlit.objectives import RectifiedFlow
from flowlit.objectives.times import LogitNormal
from flowlit.schedules import WarmUp
from flowlit.solvers import Adams, Midpoint
from flowlit.types import Solver

from .data import quiet_trainer
from .figure import Aim, Figure, floats_a_second, in_turns
from .making import accuracy
from .report import Claim, Result
from .scipy_rk45 import Counter, on_the_whole_batch
from .timing import median, ratios, spread, wall

SHAPE = (1, 8, 8)
NETWORK = {
    "resolution": 8,
    "in_channels": 1,
    "width": 32,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_resolutions": [4],
}
SAMPLES = {"cpu": 32, "cuda": 1024}
AIM = 1.5
JUDGED = 1e-3  # tolerances from here on count: looser ones are not used to make pairs
QUICK = {
    "repeats": 1,
    "train": 40,
    "samples": 4,
    "tolerances": (1e-2, 1e-3),
    "steps": (4, 16, 32),
    "finest": 1e-4,
}

Solve = Callable[[nn.Module], Tensor]


def run(device: str = "cpu", repeats: int = 3, seed: int = 0, **sizes: Any) -> Result:
    """Measure both solvers at several settings, and compare them where their errors are the same.

    Args:
        device: "cpu" or "cuda".
        repeats: turns of each setting.
        seed: of the teacher and the noise.
        sizes: see ``measure``.
    """
    rows, found = measure(device, repeats, seed, **sizes)
    title = f"Pairs of a teacher of digits ({device}); errors against DOP853, rms per entry"
    tables = {title: rows, "Adams over SciPy's RK45, at SciPy's error": [equal.row() for equal in found]}
    least = hardest(found)
    claim = (
        f"pairs/s over SciPy's RK45 at equal error, the least at tolerances up to {JUDGED:g} (here "
        f"{least.tolerance:g})"
    )
    ratio = median(least.ratios)
    return Result(tables, [Claim(claim, f"≥ {AIM:g}", f"{ratio:.2f}", ratio >= AIM)])


def figure(device: str = "cpu", repeats: int = 3, seed: int = 0, **sizes: Any) -> Figure:
    """The same for the table of figures: seconds a pair."""
    least = hardest(measure(device, repeats, seed, **sizes)[1])
    name = f"a pair of a digits teacher, 1×8×8, error {least.error:.2g} (RK45 at {least.tolerance:g})"
    flops = 2 * count_macs(UNet(**NETWORK)).all * (least.steps + 1)
    limit = flops / floats_a_second(device, torch.float32)
    return Aim(AIM, 8).figure(
        device, name, least.scipy, least.flowlit, "s", limit, "multiplications, float32"
    )


@dataclass
class Equal:
    """Seconds a pair at the same error, turn by turn: SciPy's, and Adams' interpolated to it."""

    tolerance: float
    error: float
    evaluations: int
    steps: float
    scipy: list[float]
    flowlit: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as many pairs Adams makes in a second."""
        return ratios(self.scipy, self.flowlit)

    def row(self) -> dict[str, Any]:
        """For the table."""
        return {
            "tolerance": self.tolerance,
            "error_rms": self.error,
            "scipy_evaluations": self.evaluations,
            "adams_evaluations": self.steps + 1,
            "scipy_pairs_per_s": 1 / median(self.scipy),
            "adams_pairs_per_s": 1 / median(self.flowlit),
            "ratio": median(self.ratios),
            "spread": spread(self.ratios),
        }


def measure(
    device: str,
    repeats: int,
    seed: int,
    *,
    train: int = 300,
    samples: int | None = None,
    tolerances: Sequence[float] = (1e-2, 1e-3, 1e-4, 1e-5),
    steps: Sequence[int] = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96),
    finest: float = 1e-6,
    network: nn.Module | None = None,
) -> tuple[list[dict[str, Any]], list[Equal]]:
    """Let both take turns on the same noise, beside RK2's midpoint rule; compare them where their errors are
    equal.

    Args:
        device: "cpu" or "cuda"; on the latter SciPy's state travels through NumPy at each call, as in
            research code.
        repeats: turns.
        seed: of the teacher and the noise.
        train: optimizer steps of the teacher.
        samples: solved at a time; None is ``SAMPLES`` of the device.
        tolerances: of SciPy's, relative and absolute.
        steps: of Adams'.
        finest: tolerance of DOP853, whose ends are the truth.
        network: a teacher of ``SHAPE`` that is there already.
    """
    network = (network or teacher(train, device, seed)).to(device).eval()
    x0 = seeded_normals([seed + 2], range(samples or SAMPLES[device]), SHAPE).to(device)
    contenders: dict[tuple[str, float], Solve] = {
        **{
            ("SciPy RK45", tolerance): partial(by_scipy, x0=x0, tolerance=tolerance)
            for tolerance in tolerances
        },
        **{("Adams", n): partial(by_flowlit, x0=x0, solver=Adams(n)) for n in steps},
        **{("Midpoint", n): partial(by_flowlit, x0=x0, solver=Midpoint(n)) for n in steps[2:-2:2]},
    }
    with torch.no_grad():
        truth = by_scipy(network, x0, finest, "DOP853")
        counters = {key: Counter(network) for key in contenders}
        errors = {key: accuracy(solve(counters[key]).cpu(), truth) for key, solve in contenders.items()}
        laps = in_turns(
            {key: partial(wall, partial(solve, network), device) for key, solve in contenders.items()},
            repeats,
        )
    seconds = {key: [lap / len(x0) for lap in found] for key, found in laps.items()}
    rows = [
        {
            "solver": name,
            "setting": f"{setting:g}",
            "calls": counters[name, setting].calls,
            "evaluations_per_sample": counters[name, setting].evaluations / len(x0),
            "pairs_per_s": 1 / median(seconds[name, setting]),
            "spread": spread([1 / each for each in seconds[name, setting]]),
            **errors[name, setting],
        }
        for name, setting in contenders
    ]
    reached = [max(errors["Adams", n]["error_rms"] for n in steps if n >= least) for least in steps]
    found = []
    for tolerance in tolerances:
        key, error = ("SciPy RK45", tolerance), errors["SciPy RK45", tolerance]["error_rms"]
        ours = [
            at_error(error, reached, [seconds["Adams", n][turn] for n in steps]) for turn in range(repeats)
        ]
        needed = at_error(error, reached, steps)
        found.append(Equal(tolerance, error, counters[key].calls, needed, seconds[key], ours))
    return rows, found


def at_error(error: float, errors: Sequence[float], costs: Sequence[float]) -> float:
    """What an error costs, straight between the two nearest on logarithmic axes; infinite where none is as
    small.

    Args:
        error: to be reached.
        errors: falling; each the largest of its setting and all finer ones, so that no lucky setting counts.
        costs: of them.

    >>> at_error(0.1, [1.0, 0.01], [2.0, 8.0])
    4.0
    """
    if error >= errors[0]:
        return float(costs[0])
    for (coarse, little), (fine, more) in zip(
        zip(errors, costs, strict=True), zip(errors[1:], costs[1:], strict=False), strict=False
    ):
        if fine <= error:
            share = math.log(coarse / error) / math.log(coarse / fine)
            return math.exp((1 - share) * math.log(little) + share * math.log(more))
    return math.inf


def hardest(found: Sequence[Equal]) -> Equal:
    """The comparison that is worst for Adams, of those whose tolerance counts."""
    judged = [equal for equal in found if equal.tolerance <= JUDGED]
    return min(judged or found, key=lambda equal: median(equal.ratios))


def by_flowlit(velocity: Any, x0: Tensor, solver: Solver) -> Tensor:
    """On the device, in float32."""
    with torch.no_grad():
        return solver(velocity, x0).x1


def by_scipy(velocity: Any, x0: Tensor, tolerance: float, method: str = "RK45") -> Tensor:
    """SciPy's on the whole batch, as research code does it; float64 around a float32 network."""
    with torch.no_grad():
        return on_the_whole_batch(velocity, x0, method, tolerance)


def teacher(steps: int, device: str, seed: int) -> nn.Module:
    """Train the network of ``experiments/teacher_digits.yaml`` as it says, only for fewer steps; return its
    average.
    """
    torch.manual_seed(seed)
    model = Teacher(
        UNet(**NETWORK, dropout=0.0),
        RectifiedFlow(times=LogitNormal()),
        optimizer=partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99), fused=True),
        lr_scheduler=partial(WarmUp, steps=100, total=steps),
    )
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=64, seed=seed)
    trainer = quiet_trainer(
        accelerator=device, max_steps=steps, limit_val_batches=0, callbacks=[EMA(decay=0.995)]
    )
    trainer.fit(model, data)
    return model.ema.eval().requires_grad_(False)
