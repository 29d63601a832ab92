"""Memory of one training step, each way in a process of its own: the peak above what the process had before
training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowlit.metrics.cost import count_parameters

from .data import in_ram, write_store
from .fast import fit_seconds
from .figure import Aim, Figure
from .probe import forget_peak, memory
from .processes import output_of
from .research import Training
from .timing import finished
from .training import student

Way = Literal["research", "flowlit"]


def probe(way: Way, arguments: dict[str, Any], batch: int, pairs: int, device: str, seed: int) -> float:
    """Take two steps; MB at the peak, of the device."""
    network = student(arguments, seed)
    with tempfile.TemporaryDirectory(prefix="flowlit-memory-") as folder:
        store = write_store(Path(folder) / "pairs", pairs, network.shape, seed=seed)
        held = in_ram(store)
        _begin(device)
        before = memory()["VmRSS"]
        if way == "research":
            Training(network, *held, batch, device).steps(2)
        else:
            fit_seconds(network, store, batch, steps=1, warm=1, device=device)
        finished(device)
        return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else memory()["VmHWM"] - before


def _begin(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()


def peak_of(way: Way, arguments: dict[str, Any], batch: int, pairs: int, device: str, seed: int) -> float:
    """``probe`` in a fresh process."""
    words = [
        way,
        json.dumps(arguments),
        f"--batch={batch}",
        f"--pairs={pairs}",
        f"--device={device}",
        f"--seed={seed}",
    ]
    return float(output_of("-m", "benchmarks.step_memory", *words).splitlines()[-1])


def figure(arguments: dict[str, Any], batch: int, pairs: int, device: str, seed: int) -> Figure:
    """The research script's peak and flowlit's, each once."""
    research, flowlit = (
        [peak_of(way, arguments, batch, pairs, device, seed)] for way in ("research", "flowlit")
    )  # type: ignore[arg-type]
    network = student(arguments, seed)
    held = 20 * count_parameters(network) + batch * kept(
        network
    )  # weights, gradients, two moments and an average, float32
    name = f"memory of the student step, batch {batch}"
    return Aim(1.25, 1 / 0.6).figure(
        device, name, research, flowlit, "MB", held / 2**20, "weights, moments, what gradients need"
    )


def kept(network: nn.Module) -> float:
    """Bytes of an image's activations that wait for the gradient under bf16."""
    return (
        _saved(network, 3) - _saved(network, 1)
    ) / 2  # the cast weights are saved once, however many images there are


def _saved(network: nn.Module, images: int) -> int:
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(images, *network.shape)  # type: ignore[misc]
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = network.train()(x, torch.rand(images))  # as long as it lives, no address is used twice
    total = sum(sizes.values())
    del output
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("research", "flowlit"))
    parser.add_argument("arguments", type=json.loads)
    for name, kind in (("batch", int), ("pairs", int), ("device", str), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    print(probe(**vars(parser.parse_args())))
