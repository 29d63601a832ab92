"""What the benchmarks read: stores made quickly, and the DataLoader that trains on them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from flowlit import __version__
from flowlit.commands.trainer import FlowTrainer
from flowlit.couplings import Cached
from flowlit.couplings.noise import GENERATOR, seeded_normals
from flowlit.couplings.store.encoding import X0, X1, pack
from flowlit.couplings.store.manifest import plan
from flowlit.couplings.store.writer import Store
from flowlit.modules import FlowDataModule
from flowlit.types import Pair

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def write_store(
    folder: Path,
    num: int,
    shape: Sequence[int],
    x0: X0 = "float16",
    x1: X1 = "uint8",
    shard_size: int = 1000,
    seed: int = 1,
) -> Path:
    """Write a finished store of random pairs as ``flowlit couple`` does, only without a teacher."""
    store, draws = Store(folder), np.random.default_rng(seed)
    identity: dict[str, Any] = {
        "origin": "noise",
        "shape": list(shape),
        "x0": x0,
        "x1": x1,
        "seeds": [seed],
        "shard_size": shard_size,
        "noise": {"generator": GENERATOR},
        "images": None,
        "labels": None,
        "teacher": {"sha256": "none: random pairs of a benchmark", "parameters": 0},
        "solver": None,
    }
    with store.writing():
        store.begin(identity, [num], {"flowlit": __version__})
        for shard in tqdm(
            plan([num], shard_size), desc=f"Writing {num:,} pairs", unit=" shards", leave=False
        ):
            indices = range(shard.first, shard.first + shard.rows)
            if x0 == "seed":
                noise = seeded_normals([seed], indices, shape)
            else:
                noise = torch.from_numpy(draws.standard_normal((shard.rows, *shape), dtype=np.float32))
            pair = Pair(noise, (0.5 * noise.flip(0)).clamp(-1, 1))
            nfe = torch.zeros(shard.rows, dtype=torch.int64)
            store.write_shard(shard, *pack(torch.tensor(indices), pair, nfe, seed, x0, x1))
        store.finish()
    return folder


def quiet_trainer(**arguments: Any) -> FlowTrainer:
    """A trainer on the CPU that prints nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return FlowTrainer(**{**QUIET, **arguments})


def training_loader(coupling: Cached, batch_size: int, seed: int, trainer: FlowTrainer) -> DataLoader:
    """The very DataLoader that ``flowlit fit`` draws from."""
    data = FlowDataModule(coupling, batch_size=batch_size, seed=seed)
    data.trainer = trainer
    data.setup("fit")
    return data.train_dataloader()


def in_ram(folder: Path) -> tuple[Tensor, Tensor]:
    """All pairs of a store as two float32 tensors, as research code holds them."""
    coupling = Cached(str(folder))
    coupling.dataset()
    pairs = coupling._pairs
    pair = coupling.complete(pairs.__getitems__(range(len(pairs))), torch.device("cpu"))
    return pair.x0, pair.x1


def batches(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader, without end."""
    while True:
        yield from loader
