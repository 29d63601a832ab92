"""Generators: what one holds in Python, to sample, look at, make faster, save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..networks.checkpoints.contents import Weights
from ..types import Solver, Source
from . import pictures
from .core import NoiseToImages, Precision, faster
from .files import parts_of
from .inputs import whole_number
from .labels import one_of
from .sampling import generated, noise_of, rows_between, rows_to_sample
from .trajectories import trajectories

if TYPE_CHECKING:
    from PIL.Image import Image


Seeds = int | Sequence[int]
"""One seed of noise, or several."""


class Generator(NoiseToImages):
    """Turn noise into images: ``flowlit.load`` returns one, and any network and solver make one.

    Args:
        network: a velocity, called as (x, t, cond). It generates in eval mode, whatever mode it is in.
        solver: from noise to data, as ``flowlit.solvers.Euler(1)``.
        codec: from data to images, as ``flowlit.data.Pixels()``.
        shape: (c, h, w) of noise, which is that of an image unless the codec has another. None takes the
            network's ``shape``.
        num_classes: of the labels under which ``sample`` generates; None takes the network's, 0 is without.
        precision: of the network; "bf16" is autocast, as for weights in half precision; a state is float32.
        blocks: evaluate whole blocks of 16 rows, so that an image is the same bits in any batch. Without it a
            batch of one costs one evaluation and not 16, and last bits depend on the batch.
        class_names: of class 0, 1, …; None takes the network's ``class_names``.

    Examples:
        >>> generator = flowlit.load("runs/slimflow_digits/distill")  # doctest: +SKIP
        >>> generator.sample(16, seed=7)  # doctest: +SKIP
    """

    def noise(self, seeds: int | Sequence[int]) -> Tensor:
        """Return the noise of seeds, (B, c, h, w) float32 on the generator's device.

        Seed s has the noise of image 0 of ``sample(1, seed=s)``.

        Examples:
            >>> images = generator(generator.noise([1, 2]))  # doctest: +SKIP
        """
        return noise_of(self, seeds).to(self.device)

    def sample(
        self,
        num: int | None = None,
        seed: int = 0,
        batch_size: int = 256,
        source: Source | None = None,
        label: int | str | Sequence[int | str] | None = None,
        *,
        seeds: int | Sequence[int] | None = None,
        labels: int | str | Sequence[int | str] | None = None,
        prompts: str | Sequence[str] | None = None,
    ) -> Tensor:
        """Generate images, uint8 (N, C, H, W): ``num`` of one seed, or one of each of ``seeds``.

        Image i depends on (seed, i) alone, that of ``seeds`` on its seed alone, and on the class.

        Args:
            num, seed: images 0 … num - 1 of the noise of a seed, which is from 0 to 2^64 - 1.
            batch_size: images generated at a time; no image depends on it.
            source: to start from; None is noise of the network's shape.
            seeds: in place of ``num`` and ``seed``.
            labels, label: class of all images, or a sequence with one for each: numbers from 0, or names
                where there are any. None balances them: i modulo the number of classes, s for seed s.
            prompts: texts, for a network that reads text: image i has prompt i modulo their number.

        Raises:
            FlowlitError: if the shape of the noise is not known, or the memory cannot hold so many.

        Examples:
            >>> generator.sample(seeds=[1, 2, 3], labels="dog")  # doctest: +SKIP
        """
        rows = rows_to_sample(self, num, seed, source, one_of(label, labels), seeds, prompts)
        return generated(self, rows, whole_number(batch_size, "batch_size", 1))

    def pil(self, num: int | None = None, **arguments: Any) -> list[Image]:
        """Generate as ``sample`` does; return a list of PIL images.

        Examples:
            >>> generator.pil(seeds=[7])[0].save("seven.png")  # doctest: +SKIP
        """
        return pictures.pil(self.sample(num, **arguments))

    def grid(
        self,
        num: int | None = None,
        *,
        columns: int | None = None,
        scale: int | None = None,
        **arguments: Any,
    ) -> Image:
        """Generate as ``sample`` does; return one picture, row by row, which a notebook shows.

        Args:
            columns: images in a row; None makes a square.
            scale: whole factor by which images are enlarged; None brings small ones to 64 pixels or more.
            num, arguments: of ``sample``.

        Examples:
            >>> generator.grid(100, columns=10, seed=7)  # doctest: +SKIP
        """
        return pictures.grid(self.sample(num, **arguments), columns, scale)

    def interpolate(self, seeds: Seeds, steps: int = 9, labels: Any = None, prompts: Any = None) -> Tensor:
        """Generate the images on the way from seed to seed, uint8 (N, C, H, W).

        The way is on quarters of circles, so that noise there is as likely as that of the seeds, whose images
        are among the results.

        Args:
            seeds: two or more.
            steps: images from one seed to the next, both ends among them; at least 2.
            labels, prompts: class and text of all; None takes the class of the first seed.

        Examples:
            >>> flowlit.grid(generator.interpolate([1, 2], steps=9), columns=9)  # doctest: +SKIP
        """
        return generated(self, rows_between(self, seeds, whole_number(steps, "steps", 2), labels, prompts))

    def trajectory(self, seeds: Seeds, steps: int = 9, labels: Any = None, prompts: Any = None) -> Tensor:
        """Generate states on the way from the noise of seeds to their images, uint8 (N, steps, C, H, W).

        They are at equal times from 0 to 1; between the solver's own states the way is straight.

        Args:
            seeds, labels, prompts: as in ``sample``; one way each.
            steps: states of a way, noise and image among them; at least 2.

        Examples:
            >>> flowlit.grid(generator.trajectory([7])[0], columns=9)  # doctest: +SKIP
        """
        rows = rows_to_sample(self, None, 0, None, labels, seeds, prompts)
        return trajectories(self, rows, whole_number(steps, "steps", 2))

    def faster(
        self,
        precision: Precision | None = None,
        channels_last: bool = False,
        compile: bool = False,
        graphs: bool = False,
        blocks: bool | None = None,
    ) -> Generator:
        """Return a generator of the same images, but for rounding, in less time; this one stays as it is.

        Without arguments it copies the network, compiled or not. Images differ by rounding (docs/knobs.md).

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
        network = faster(self.network, channels_last, compile, graphs)
        blocks = self.blocks if blocks is None else blocks
        precision = self.precision if precision is None else precision
        return replace(self, network=network, precision=precision, blocks=blocks)


def load(
    checkpoint: str | os.PathLike[str],
    weights: Weights = "ema",
    solver: Solver | None = None,
    network: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> Generator:
    """Read a generator from a run, a checkpoint, or a file of ``Generator.save``; Lightning is not imported.

    Args:
        checkpoint: a run's folder, whose good checkpoint of the highest step is taken; a file of ``flowlit
            fit``, ``flowlit convert`` or ``Generator.save``, or another that ``pretrained`` reads; an ONNX
            file of ``flowlit export``; a folder with one file of safetensors, or model.safetensors; or a
            model of the Hugging Face hub, as "user/name", "user/name@revision" or "hf://user/name"
            (``flowlit[hub]``).
        weights: "ema", "raw", or the name of another average of the run.
        solver: None takes the first solver of the module that was trained (one Euler step for a one-step
            student).
        network: only for networks that the checkpoint does not describe.
        device: to generate on, as "cuda"; None is the CPU.

    Raises:
        FlowlitError: as ``pretrained``; for folders without weights, devices that this machine lacks, and
            models that the hub does not have or give.

    Examples:
        >>> flowlit.load("runs/slimflow_digits/distill", device="cuda").grid(64)  # doctest: +SKIP
    """
    return Generator(**parts_of(checkpoint, weights, solver, network, device))
