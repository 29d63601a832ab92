"""Where pairs begin: noise, data, or both at random. The missing end is found by a flow, see
``PairPredictor``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..data import Pixels
from ..errors import FlowlitError
from ..types import Cond, ImageDataset, Pair
from .noise import GENERATOR, SeededNoise
from .store.manifest import Shard

From = Literal["noise", "data", "random"]


class Part(NamedTuple):
    """Some rows of a shard, solved together; an end that is None is still to be found."""

    shard: Shard
    index: Tensor  # type: ignore[assignment]  # (B,) int64
    x0: Tensor | None  # (B, C, H, W) float32
    x1: Tensor | None  # (B, C, H, W) float32
    cond: Cond


class Solved(NamedTuple):
    """A part of a shard with both ends."""

    shard: Shard
    index: Tensor  # type: ignore[assignment]  # (B,)
    pair: Pair
    nfe: Tensor  # (B,)


class Origin(ABC):
    """The ends that pairs begin with: row i is a function of i alone."""

    name: From
    shape: tuple[int, ...]
    seed: int

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None, Cond]:
        """Draw or read rows: index, x0, x1, cond."""

    @abstractmethod
    def facts(self, counts: list[int]) -> dict[str, Any]:
        """What the manifest says of these ends; ``counts`` as in ``plan``."""


class FromNoise(Origin):
    """Seeded noise, to be carried to data: the couplings of reflow."""

    name: From = "noise"

    def __init__(self, noise: SeededNoise):
        self.noise = noise
        self.shape = noise.shape
        self.seed = noise.seed

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None, Cond]:
        noise = self.noise.batch(indices)
        return noise.index, noise.x0, None, noise.cond

    def facts(self, counts: list[int]) -> dict[str, Any]:
        return {"noise": {"generator": GENERATOR}, "images": None, "labels": self._labels(counts)}

    def _labels(self, counts: list[int]) -> dict[str, Any] | None:
        if not self.noise.num_classes:
            return None
        if self.noise.labels is None:
            return {"num_classes": self.noise.num_classes, "law": "balanced"}
        labels = np.asarray(self.noise.labels, np.int64)
        hashes = {str(count): hashlib.sha256(labels[:count].tobytes()).hexdigest()[:16] for count in counts}
        return {"num_classes": self.noise.num_classes, "law": "given", "sha256": hashes}


class FromData(Origin):
    """Real images, to be carried back to their noise by the flow in reverse (inversion)."""

    name: From = "data"
    seed = 0  # nothing is drawn: image i is image i

    def __init__(self, images: ImageDataset, num_classes: int = 0):
        self.images = images
        self.num_classes = num_classes
        self.codec = Pixels()
        self.shape = tuple(images[0]["x1"].shape)

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None, Cond]:
        batch = default_collate([{"index": i, **self.images[i % len(self.images)]} for i in indices])
        cond = batch["cond"] if self.num_classes else {}
        return batch["index"], None, self.codec.encode(batch["x1"]), cond

    def facts(self, counts: list[int]) -> dict[str, Any]:
        if counts[-1] > len(self.images):
            raise FlowlitError(
                f"couple: --num is {counts[-1]}, but there are {len(self.images)} images to start from; "
                "lower it"
            )
        labels = {"num_classes": self.num_classes, "law": "of the images"} if self.num_classes else None
        return {
            "noise": {"generator": "the flow in reverse"},
            "images": {"sha256": self.images.fingerprint},
            "labels": labels,
        }


class Random(FromData):
    """Seeded noise beside real images, independent of each other; no flow is asked. Images repeat with other
    noise.
    """

    name: From = "random"

    def __init__(self, images: ImageDataset, num_classes: int = 0, seed: int = 0):
        super().__init__(images, num_classes)
        self.noise = SeededNoise(self.shape, 1, seed)
        self.seed = seed

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor | None, Cond]:
        index, _, x1, cond = super().rows(indices)
        return index, self.noise.batch(indices).x0, x1, cond

    def facts(self, counts: list[int]) -> dict[str, Any]:
        return {**super().facts([1]), "noise": {"generator": GENERATOR}}


def make_origin(
    name: From,
    noise: SeededNoise,
    num: int,
    seed: int,
    images: ImageDataset | None = None,
    labels: str | None = None,
) -> Origin:
    """Build the origin that ``flowlit couple --origin`` names.

    Args:
        name: noise, data or random.
        noise: gives shape and number of classes.
        num: pairs in all.
        seed: of the noise.
        images: data to start from.
        labels: file of classes, see ``read_labels``; only for noise.

    Raises:
        FlowlitError: if images are missing, or labels are given for images, which bring their own.
    """
    if name == "noise":
        given = read_labels(labels) if labels else None
        return FromNoise(SeededNoise(noise.shape, num, seed, noise.num_classes, given))
    if name not in ("data", "random"):
        raise FlowlitError(f"couple: origin is {name!r}; expected noise, data or random")
    if images is None:
        raise FlowlitError(
            f"couple --origin {name} starts from images: --data.coupling flowlit.couplings.Independent "
            "--data.coupling.images …"
        )
    if noise.num_classes and "label" not in images[0]["cond"]:
        raise FlowlitError(
            f"couple: data.noise.num_classes is {noise.num_classes}, but the images bring no labels "
            "(labels: true)"
        )
    if labels:
        raise FlowlitError(f"couple --origin {name} takes the labels of its images; drop --labels")
    return FromData(images, noise.num_classes) if name == "data" else Random(images, noise.num_classes, seed)


def read_labels(path: str, what: str = "labels") -> list[int]:
    """Read whole numbers from .npy or text (one a line): class labels, or seeds.

    Raises:
        FlowlitError: if the file is missing or holds something else.
    """
    try:
        array = (
            np.load(path, allow_pickle=False)
            if path.endswith(".npy")
            else np.loadtxt(path, dtype=np.int64, ndmin=1)
        )
    except (OSError, ValueError, EOFError) as error:
        raise FlowlitError(
            f"{what} {path} cannot be read ({error}); expected .npy or text, one number a pair"
        ) from error
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise FlowlitError(
            f"{what} {path}: found {array.dtype} {array.shape}, expected whole numbers (pairs,)"
        )
    return array.tolist()


class Parts(Dataset):
    """Shards cut into the batches that are solved at a time; item k is a ``Part``.

    The cuts do not depend on who solves them, so a shard has the same bytes for any number of processes.
    """

    def __init__(self, origin: Origin, shards: Sequence[Shard], batch_size: int):
        self.origin = origin
        self.cuts = [(s, first) for s in shards for first in range(s.first, s.first + s.rows, batch_size)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, item: int) -> Part:
        shard, first = self.cuts[item]
        return Part(
            shard, *self.origin.rows(range(first, min(first + self.batch_size, shard.first + shard.rows)))
        )
