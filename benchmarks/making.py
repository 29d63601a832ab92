"""Making pairs: how much of ``flowlit couple`` is the solver, and flowlit's RK45 against SciPy's on the whole
batch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from flowlit.couplings import SeededNoise
from flowlit.couplings.noise import seeded_normals
from flowlit.data import Digits
from flowlit.modules import FlowDataModule, Teacher
from flowlit.networks import EmpiricalFlow, UNet
from flowlit.solvers import RK45

from .data import quiet_trainer
from .report import Claim, Result
from .scipy_rk45 import Endpoint, flowlit_rk45, reference, scipy_rk45
from .timing import median, spread

UNET = {
    "resolution": 32,
    "in_channels": 3,
    "width": 24,
    "multipliers": [1, 2, 2],
    "blocks": 2,
    "attention_resolutions": [16],
}
QUICK = {
    "pairs": 8,
    "shard_size": 4,
    "batch": 4,
    "tolerance": 1e-2,
    "repeats": 1,
    "samples": 8,
    "tolerances": (1e-2,),
}


def run(
    pairs: int = 128,
    shard_size: int = 32,
    batch: int = 32,
    tolerance: float = 1e-3,
    repeats: int = 3,
    samples: int = 128,
    tolerances: Sequence[float] = (1e-2, 1e-3, 1e-4),
    network: dict[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """Measure ``flowlit couple``, then compare solvers.

    Args:
        pairs: that are made.
        shard_size: pairs per file.
        batch: pairs solved at a time.
        tolerance: of RK45, relative and absolute, in ``flowlit couple``.
        repeats: of everything that is timed.
        samples: solved by both solvers on the exact flow of handwritten digits.
        tolerances: at which the solvers are compared.
        network: arguments of the UNet; None is one of 989 thousand parameters at 3×32×32.
        seed: of noise and weights.
    """
    unet = random_unet(network or UNET, seed)
    title = (
        f"flowlit couple: {pairs} pairs, UNet of {sum(p.numel() for p in unet.parameters()):,} parameters, "
        f"RK45 at {tolerance:g}"
    )
    shares = [couple(unet, pairs, shard_size, batch, tolerance, seed) for _ in range(repeats)]
    digits = EmpiricalFlow(Digits(labels=False)).eval()
    rows = [
        *compare("exact flow of digits, 1×8×8", digits, (1, 8, 8), samples, tolerances, repeats, seed),
    ]
    tables = {
        title: shares,
        "RK45 per sample (flowlit) and on the whole batch (SciPy)": rows,
        "flowlit over SciPy": ratios(rows),
    }
    return Result(tables, claims(shares))


def random_unet(arguments: dict[str, Any], seed: int) -> UNet:
    """A network whose velocity bends: a fresh one returns almost 0, so its last weights are drawn anew."""
    torch.manual_seed(seed)
    network = UNet(**{"dropout": 0.0, **arguments}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.abs().max() < 1e-3:  # layers that begin at (nearly) zero
                parameter.normal_(std=0.05)
    return network.requires_grad_(False)


class DeviceTimer(Callback):
    """Time of the predict loop, up to the moment when its last shard is on disk."""

    begin = end = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.end = time.perf_counter()


class TimedRK45(RK45):
    """RK45 that adds up the time spent in it."""

    seconds, nfe = 0.0, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        solution = super().__call__(*args, **kwargs)
        self.seconds += time.perf_counter() - begin
        self.nfe += int(solution.nfe.sum())
        return solution


def couple(
    network: UNet, pairs: int, shard_size: int, batch: int, tolerance: float, seed: int
) -> dict[str, Any]:
    """Make a store, and tell where the time went."""
    solver, watch = TimedRK45(tolerance, tolerance), DeviceTimer()
    model = Teacher(network=network, solvers={"rk45": solver})
    data = FlowDataModule(noise=SeededNoise(network.shape, 1, seed))
    with tempfile.TemporaryDirectory(prefix="flowlit-making-") as folder:
        trainer = quiet_trainer(callbacks=[watch], default_root_dir=folder)
        begin = time.perf_counter()
        trainer.couple(
            model,
            data,
            store=f"{folder}/pairs",
            num=pairs,
            seed=seed + 1,
            shard_size=shard_size,
            batch_size=batch,
        )
        total = time.perf_counter() - begin
    loop = watch.end - watch.begin
    return {
        "solver_s": solver.seconds,
        "loop_s": loop,
        "couple_s": total,
        "solver_of_loop": solver.seconds / loop,
        "solver_of_couple": solver.seconds / total,
        "pairs_per_s": pairs / loop,
        "mean_nfe": solver.nfe / pairs,
    }


def compare(
    name: str,
    velocity: nn.Module,
    shape: Sequence[int],
    samples: int,
    tolerances: Sequence[float],
    repeats: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Solve the same samples with both solvers, in turn, and measure their distance from a much finer
    solution.
    """
    x0 = seeded_normals([seed + 2], range(samples), shape)
    truth = reference(velocity, x0, min(tolerances) * 1e-3)
    rows = []
    for tolerance in tolerances:
        found: dict[str, list[Endpoint]] = {"flowlit": [], "scipy": []}
        for _ in range(repeats):
            found["flowlit"].append(flowlit_rk45(velocity, x0, tolerance))
            found["scipy"].append(scipy_rk45(velocity, x0, tolerance))
        rows += [
            {
                "velocity": name,
                "tolerance": tolerance,
                "solver": solver,
                **accuracy(ends[0].x1, truth),
                **cost(ends, samples),
            }
            for solver, ends in found.items()
        ]
    return rows


def accuracy(x1: Tensor, truth: Tensor) -> dict[str, float]:
    """Distance to the truth per entry (root mean square): over all samples, and of the sample that is
    furthest off.
    """
    square = (x1.double() - truth).flatten(1).square().mean(1)
    return {
        "error_rms": float(square.mean().sqrt()),
        "error_median": float(square.median().sqrt()),
        "error_worst": float(square.max().sqrt()),
    }


def cost(ends: Sequence[Endpoint], samples: int) -> dict[str, Any]:
    """Network calls, evaluations per sample, and speed."""
    rates = [samples / end.seconds for end in ends]
    return {
        "calls": ends[0].calls,
        "evaluations_per_sample": ends[0].evaluations / samples,
        "pairs_per_s": median(rates),
        "spread": spread(rates),
    }


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """flowlit over SciPy, for each velocity and tolerance."""
    names = ("pairs_per_s", "evaluations_per_sample", "calls", "error_rms", "error_median", "error_worst")
    return [
        {
            "velocity": ours["velocity"],
            "tolerance": ours["tolerance"],
            **{name: ours[name] / theirs[name] for name in names},
        }
        for ours, theirs in zip(rows[::2], rows[1::2], strict=True)
    ]


def claims(shares: list[dict[str, Any]]) -> list[Claim]:
    """The aim for the share; there is none for the comparison with SciPy."""
    share = median([row["solver_of_loop"] for row in shares])
    return [Claim("time in the solver, of the predict loop", "≥ 90 %", f"{share:.1%}", share >= 0.9)]
