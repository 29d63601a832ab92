"""``flowlit validate`` with one process and with two: images/s, the same features, and how time and memory
grow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from tqdm import tqdm

from flowlit.metrics.feature_cache import FeatureCache
from flowlit.networks import SmallClassifier, pretrained

from .making import random_unet
from .probe import forget_peak, memory
from .processes import ROOT, output_of
from .report import Claim, Result
from .timing import median, spread, wall

UNET = {
    "resolution": 16,
    "in_channels": 3,
    "width": 24,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_resolutions": [8],
}
DIM = 64
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
QUICK = {"images": 200, "counts": (100, 200), "batch": 50, "repeats": 1}
WAYS = (
    "flowlit, one process",
    "flowlit, two processes (ddp)",
    "plain loop, one process",
    "plain loop, two side by side",
)


def run(
    images: int = 3_000,
    counts: Sequence[int] = (1_000, 5_000, 20_000, 50_000),
    batch: int = 250,
    repeats: int = 4,
    network: dict[str, Any] | None = None,
    seed: int = 0,
) -> Result:
    """Generate with one Euler step, one thread a process, and extract features of an untrained classifier.

    Args:
        images: generated in each turn.
        counts: images with which time and memory are followed, growing; one process.
        batch: images at a time in each process.
        repeats: turns of each contender.
        network: arguments of the UNet; None is one of 423 thousand parameters at 3×16×16.
        seed: of noise and weights.
    """
    unet = random_unet(network or UNET, seed)
    parameters = sum(p.numel() for p in unet.parameters())
    with tempfile.TemporaryDirectory(prefix="flowlit-generation-") as name:
        folder = Path(name)
        prepare(folder, unet, seed)
        growth = [
            {"images": n, **validate(folder, f"growth-{n}", n, batch, 1, unet.shape, seed)}
            for n in tqdm(counts, desc="Growth", leave=False)
        ]
        laps: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        same = []
        for turn in tqdm(range(repeats), desc="Turns", leave=False):
            for processes, way in enumerate(WAYS[:2], 1):
                laps[way].append(
                    validate(folder, f"{processes}-{turn}", images, batch, processes, unet.shape, seed)
                )
            same.append(torch.equal(made(folder / f"1-{turn}", images), made(folder / f"2-{turn}", images)))
            for processes, way in enumerate(WAYS[2:], 1):
                laps[way].append(plain(folder, images, batch, processes, seed))
    rows = [
        {
            "what": way,
            **{column: median([lap[column] for lap in of]) for column in of[0]},
            "spread": spread([lap["images_per_s"] for lap in of]),
        }
        for way, of in laps.items()
    ]
    ratios = [
        ratio_row(WAYS[1], WAYS[0], laps),
        ratio_row(WAYS[3], WAYS[2], laps),
        ratio_row(WAYS[0], WAYS[2], laps),
    ]
    size = "×".join(map(str, unet.shape))
    tables: dict[str, list[Any]] = {
        f"{images:,} images of {size}, UNet of {parameters:,} parameters, a thread a process": rows,
        f"Ratios of images/s, turn by turn ({repeats} turns)": ratios,
        "flowlit, one process: growth with the number of images; MB above the process's own": growth,
    }
    return Result(tables, claims(ratios, growth, same))


def ratio_row(above: str, below: str, laps: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Compare two contenders turn by turn, on the clock and in processor time."""
    pairs = list(zip(laps[above], laps[below], strict=True))
    found, cpu = (
        [a[column] / b[column] for a, b in pairs] for column in ("images_per_s", "images_per_cpu_s")
    )
    return {
        "above": above,
        "below": below,
        "ratio": median(found),
        "range": spread(found),
        "ratio_per_cpu_s": median(cpu),
    }


# ---------------------------------------------------------------------------------------------------------
# flowlit validate


class Clock(Callback):
    """Time and memory of the validation of one rank, from its start to its end, written as JSON; the last
    callback.
    """

    def __init__(self, folder: str):
        self.folder, self.before, self.begin, self.cpu, self.generated = folder, 0.0, 0.0, 0.0, 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.strategy.barrier("clock")
        forget_peak()
        self.before, self.begin, self.cpu = memory()["VmRSS"], time.perf_counter(), time.process_time()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.generated = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        facts = {
            "seconds": time.perf_counter() - self.begin,
            "generating_s": self.generated - self.begin,
            "cpu_s": time.process_time() - self.cpu,
            "own_mb": self.before,
            "peak_mb": memory()["VmHWM"] - self.before,
        }
        path = Path(self.folder) / f"clock-{trainer.global_rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))


def prepare(folder: Path, unet: nn.Module, seed: int) -> None:
    """Write the networks' checkpoints, and reference statistics that say nothing."""
    torch.manual_seed(seed)
    networks = {"unet": unet, "classifier": SmallClassifier(in_channels=unet.shape[0], dim=DIM)}  # type: ignore[index]
    for name, network in networks.items():
        state = {
            f"{part}.{key}": value
            for part in ("network", "ema")
            for key, value in network.state_dict().items()
        }
        torch.save(
            {"state_dict": state, "flowlit": {"network": network.spec, "ema_updates": 0}},
            folder / f"{name}.ckpt",
        )
    np.savez(folder / "reference.npz", mu=np.zeros(DIM), sigma=np.eye(DIM), protocol=np.array("{}"))


def configuration(
    folder: Path, name: str, images: int, batch: int, shape: Sequence[int], seed: int
) -> dict[str, Any]:
    """What ``flowlit validate`` is to do."""

    def part(path: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": path, "init_args": arguments}

    features = part(
        "flowlit.metrics.ClassifierFeatures", checkpoint=str(folder / "classifier.ckpt"), name="untrained"
    )
    model = part(
        "flowlit.modules.FlowModule",
        network=part("flowlit.networks.pretrained", checkpoint=str(folder / "unet.ckpt"), weights="raw"),
        objective={"class_path": "flowlit.objectives.RectifiedFlow"},
        solvers={"euler1": part("flowlit.solvers.Euler", steps=1)},
    )
    noise = part("flowlit.couplings.SeededNoise", shape=list(shape), num=images, seed=seed)
    callbacks = [
        part("flowlit.callbacks.FID", features=features, reference=str(folder / "reference.npz")),
        part("benchmarks.generation.Clock", folder=str(folder / name)),
    ]
    logger = part("lightning.pytorch.loggers.TensorBoardLogger", save_dir=str(folder), name=name, version="")
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    return {
        "seed_everything": seed,
        "model": model,
        "data": part("flowlit.modules.FlowDataModule", noise=noise, noise_batch_size=batch),
        "trainer": {**quiet, "logger": logger, "callbacks": callbacks},
    }


def validate(
    folder: Path, name: str, images: int, batch: int, processes: int, shape: Sequence[int], seed: int
) -> dict[str, float]:
    """Run ``flowlit validate``; images/s from the start to the end of validation, of the slowest rank."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(configuration(folder, name, images, batch, shape, seed)))
    words = ["--trainer.devices", str(processes), "--trainer.strategy", "ddp" if processes > 1 else "auto"]
    whole = wall(lambda: output_of("-m", "flowlit", "validate", "-c", str(path), *words, **ONE_THREAD))
    clocks = [json.loads((folder / name / f"clock-{rank}.json").read_text()) for rank in range(processes)]
    most = {column: max(clock[column] for clock in clocks) for column in clocks[0]}
    return {
        "images_per_s": images / most["seconds"],
        "images_per_cpu_s": images / sum(clock["cpu_s"] for clock in clocks),
        "seconds": most["seconds"],
        "measuring_s": most["seconds"] - most["generating_s"],
        "starting_s": whole - most["seconds"],
        "peak_mb": most["peak_mb"],
        "own_mb": most["own_mb"],
    }


def made(folder: Path, images: int) -> Tensor:
    """Features of all images of a run, in the order of their noise."""
    [bank] = (path for path in (folder / "features").iterdir() if path.is_dir())
    index, rows = FeatureCache(bank).read("euler1.features", images)
    if index.tolist() != list(range(images)):
        raise RuntimeError(f"{bank} holds {len(index)} of {images} images")
    return rows


# plain loop


def plain(folder: Path, images: int, batch: int, processes: int, seed: int) -> dict[str, float]:
    """Loops that know nothing of each other, begun at the same moment: what the machine gives."""
    words = [f"--{k}={v}" for k, v in [("images", images // processes), ("batch", batch)]]
    command = [sys.executable, "-m", "benchmarks.generation", str(folder), *words]
    loops = [
        subprocess.Popen(
            [*command, f"--seed={seed + i}"],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for loop in loops:
        loop.stdout.readline()  # type: ignore[union-attr]  # it is ready
    for loop in loops:
        loop.stdin.write("\n")  # type: ignore[union-attr]
        loop.stdin.flush()  # type: ignore[union-attr]
    results = [json.loads(loop.communicate()[0]) for loop in loops]
    count, slowest = images // processes * processes, max(one["seconds"] for one in results)
    return {
        "images_per_s": count / slowest,
        "images_per_cpu_s": count / sum(one["cpu_s"] for one in results),
        "seconds": slowest,
    }


@torch.no_grad()
def plain_loop(folder: Path, images: int, batch: int, seed: int) -> dict[str, float]:
    """Noise, one Euler step, uint8, features; then their mean and covariance, as a script would have it."""
    network, classifier = (
        pretrained(str(folder / f"{name}.ckpt"), "raw").eval() for name in ("unet", "classifier")
    )
    generator = torch.Generator().manual_seed(seed)

    def extract(rows: int) -> Tensor:
        x0 = torch.randn(rows, *network.shape, generator=generator)  # type: ignore[misc]
        x1 = x0 + network(x0, torch.zeros(rows), {})
        pixels = ((x1 + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return classifier.features_and_logits(pixels / 127.5 - 1)[0]  # type: ignore[operator]

    extract(batch)
    print("ready", flush=True)
    sys.stdin.readline()
    begin, cpu = time.perf_counter(), time.process_time()
    features = torch.cat([extract(min(batch, images - first)) for first in range(0, images, batch)])
    features.mean(0), features.T.cov()
    return {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}


def claims(ratios: list[dict[str, Any]], growth: list[dict[str, Any]], same: list[bool]) -> list[Claim]:
    """Two processes are nearly twice as fast where there are two cores, make the same features; time linear,
    memory flat.
    """
    cores, ratio = len(os.sched_getaffinity(0)), ratios[0]["ratio"]
    first, last = growth[0], growth[-1]
    times, more = (
        (last["seconds"] / last["images"]) / (first["seconds"] / first["images"]),
        last["peak_mb"] - first["peak_mb"],
    )
    return [
        Claim(
            f"two processes over one ({cores} cores)",
            "≥ 1.6" if cores > 1 else "–",
            f"{ratio:.2f}",
            ratio >= 1.6 or cores < 2,
        ),
        Claim(
            "features of one and two processes, bit for bit",
            "equal",
            f"{sum(same)} of {len(same)} turns",
            all(same),
        ),
        Claim(
            f"time an image, {last['images']:,} over {first['images']:,}",
            "≤ 1.2",
            f"{times:.2f}",
            times <= 1.2,
        ),
        Claim(
            f"memory, {last['images']:,} over {first['images']:,} images",
            "≤ 32 MB more",
            f"{more:.0f} MB",
            more <= 32,
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for word in ("images", "batch", "seed"):
        parser.add_argument(f"--{word}", type=int, required=True)
    print(json.dumps(plain_loop(**vars(parser.parse_args()))))
