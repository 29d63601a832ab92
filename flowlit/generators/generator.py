"""Generators: a network, a solver and a codec, which turn noise into images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .._support.batch_invariance import BatchInvariant
from .._support.cuda_graphs import check_device, replayed
from ..couplings import SeededNoise
from ..couplings.noise import SEEDS
from ..data import Pixels
from ..data.classes import class_names_of
from ..errors import FlowlitError
from ..networks.checkpoints.contents import Weights
from ..networks.checkpoints.load import take
from ..networks.checkpoints.locate import locate
from ..networks.checkpoints.read import read_contents
from ..networks.checkpoints.spec import build
from ..types import Codec, Cond, Solver, Source, classes_of, codec_of, shape_of
from .inputs import (
    check_memory,
    conditions,
    labels_of,
    names_of_classes,
    noise_to_start_from,
    sizes,
    whole_number,
)

Precision = Literal["float32", "bf16"]


@dataclass
class Generator:
    """Turn noise into images.

    Args:
        network: a velocity.
        solver: from noise to data.
        codec: from data to images.
        shape: (c, h, w) of noise and x1, which is that of an image unless the codec has another; for
            ``sample``.
        num_classes: of the labels under which ``sample`` generates.
        precision: arithmetic of the network; "bf16" is PyTorch's autocast, the solver's state float32.
        blocks: evaluate whole blocks of 16 rows, so that an image is the same bits in any batch. Without it a
            batch of one costs one evaluation and not 16, and last bits depend on the batch.
        class_names: of class 0, 1, …, where the checkpoint has them.

    >>> # generator = flowlit.load("runs/slimflow_digits/distill/checkpoints/last.ckpt")
    >>> # images = generator.sample(16, seed=0)        # uint8 (16, 1, 8, 8)
    """

    network: nn.Module
    solver: Solver
    codec: Codec
    shape: tuple[int, ...] | None = None
    num_classes: int = 0
    precision: Precision = "float32"
    blocks: bool = True
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for value, name, kind in (
            (self.network, "network", nn.Module),
            (self.solver, "solver", Solver),
            (self.codec, "codec", Codec),
            (self.blocks, "blocks", bool),
        ):
            check_kind(value, name, kind)
        self.shape = None if self.shape is None else sizes(self.shape)
        self.num_classes = whole_number(self.num_classes, "num_classes")
        self.class_names = names_of_classes(self.class_names, self.num_classes)
        if self.precision not in ("float32", "bf16"):
            raise FlowlitError(f"precision is {self.precision!r}; expected one of float32, bf16")

    @torch.no_grad()
    def __call__(self, x0: Tensor, cond: Cond = {}) -> Tensor:
        """Noise (B, c, h, w) -> uint8 images (B, C, H, W).

        Noise and conditions may be NumPy arrays, and on another device than the network.

        Raises:
            FlowlitError: for noise that is not finite or of another shape, and labels that are no classes.
        """
        x0 = noise_to_start_from(x0, self.network, self.shape)
        cond = conditions(cond, x0, self.num_classes)
        velocity = BatchInvariant(self.network) if self.blocks else self.network
        if self.precision == "float32":
            return self.codec.decode(self.solver(velocity, x0, cond).x1)
        with torch.autocast(x0.device.type, torch.bfloat16, cache_enabled=False):
            solution = self.solver(velocity, x0, cond)
        return self.codec.decode(solution.x1)

    def faster(
        self,
        precision: Precision | None = None,
        channels_last: bool = False,
        compile: bool = False,
        graphs: bool = False,
        blocks: bool | None = None,
    ) -> Generator:
        """Return a generator of the same images, but for rounding, in less time; this one stays as it is.

        Without arguments it only copies the network. Images differ by rounding; how much is in docs/knobs.md.

        Args:
            precision: "bf16" for GPUs with tensor cores and recent CPUs; see the class. None changes nothing.
            channels_last: convolutions with their channels last in memory.
            compile: by ``torch.compile``, when it is first called, which takes a minute or more.
            graphs: replay CUDA graphs for batches of sizes that recur, recorded in the main thread; the
                network must be on the GPU already.
            blocks: see the class. None changes nothing.

        Raises:
            FlowlitError: if the precision is unknown, or the network is not where graphs are.
        """
        network = deepcopy(self.network).eval()
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            network.compile()
        if graphs:
            check_device(self.device)
            replayed(network)
        blocks = self.blocks if blocks is None else blocks
        precision = self.precision if precision is None else precision
        return replace(self, network=network, precision=precision, blocks=blocks)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    def sample(
        self,
        num: int,
        seed: int = 0,
        batch_size: int = 256,
        source: Source | None = None,
        label: int | str | Sequence[int | str] | None = None,
    ) -> Tensor:
        """Generate images 0 … num - 1 of a seed, uint8 (num, C, H, W). Image i depends on (seed, i) alone.

        Args:
            num: images.
            seed: of the noise.
            batch_size: images generated at a time; no image depends on it.
            source: to start from; None is noise of the network's shape, with labels balanced by index.
            label: class of all images, or a sequence with one for each: numbers, or names where the
                checkpoint has them.

        Raises:
            FlowlitError: if the shape of the noise is not known, or the memory cannot hold so many.
        """
        num = whole_number(num, "num", 1)
        batch_size = min(num, whole_number(batch_size, "batch_size", 1))
        rows = self._source(source, num, whole_number(seed, "seed", 0, SEEDS - 1), label)
        check_memory(num, rows.shape, "images")
        check_memory(batch_size, rows.shape, "noise of a batch", 4)
        images = torch.empty(0, dtype=torch.uint8)
        done = 0
        for noise in DataLoader(rows, batch_size=batch_size):
            batch = self(noise.x0, noise.cond).cpu()
            if not done:
                check_memory(num, batch.shape[1:], "images")
                images = batch.new_empty(num, *batch.shape[1:])
            images[done : done + len(batch)] = batch
            done += len(batch)
        return images

    def _source(self, source: Source | None, num: int, seed: int, label: Any) -> Source:
        if source is not None:
            check_kind(source, "source", Source)
            if label is not None:
                raise FlowlitError("label is for noise of the network's own; a source brings its labels")
            return source.reseeded(seed).first(num)
        if self.shape is None:
            raise FlowlitError(
                "the network has no attribute `shape`; call the generator with noise of your own"
            )
        labels = None if label is None else labels_of(label, self.num_classes, self.class_names)
        return SeededNoise(self.shape, num, seed, self.num_classes, labels)


def check_kind(value: Any, name: str, kind: type) -> None:
    """Refuse an argument of another kind.

    Raises:
        FlowlitError: naming both; a class is another thing than an object of it.
    """
    if not isinstance(value, kind):
        what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        hint = f"; write {value.__name__}(…)" if isinstance(value, type) and issubclass(value, kind) else ""
        raise FlowlitError(f"{name} is {what}; expected an object of {kind.__name__}{hint}")


def load(
    checkpoint: str | os.PathLike[str],
    weights: Weights = "ema",
    solver: Solver | None = None,
    network: nn.Module | None = None,
) -> Generator:
    """Read a generator from a checkpoint of ``flowlit fit`` or ``flowlit convert``, or another that
    ``pretrained`` reads.

    Args:
        checkpoint: path of the file.
        weights: "ema", "raw", or the name of another average of the run.
        solver: None takes the first solver of the module that was trained (one Euler step for a one-step
            student).
        network: only for networks that the checkpoint does not describe.

    Raises:
        FlowlitError: as ``pretrained``.
    """
    for value, name, kind in (
        (weights, "weights", str),
        (solver, "solver", Solver),
        (network, "network", nn.Module),
    ):
        if value is not None or name == "weights":
            check_kind(value, name, kind)
    checkpoint = str(locate(checkpoint))
    contents = read_contents(checkpoint)
    facts = contents.facts
    net = take(contents, checkpoint, weights, network).requires_grad_(False)
    if solver is None:
        if facts.get("solver") is None:
            raise FlowlitError(
                f"checkpoint {checkpoint} names no solver; give one, e.g. solver=flowlit.solvers.Euler(1)"
            )
        solver = build(facts["solver"], Solver)
    described = codec_of(net)
    codec = build(described, Codec) if described else Pixels()
    names = class_names_of(net)
    return Generator(net, solver, codec, shape_of(net), classes_of(net) or 0, class_names=names)
