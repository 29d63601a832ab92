"""Ends that pairs begin with: noise, data or both. A flow computes the missing one, see ``PairPredictor``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import default_collate

from ..data import Pixels
from ..data.classes import check_occurring
from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeInt, Seed
from ..types import Codec, Cond, ImageDataset, Source
from .labels import read_labels
from .noise import GENERATOR, SeededNoise
from .prompted import PromptedNoise
from .store.encoding import X0, X1, codec_facts
from .store.manifest import check_conditions

From = Literal["noise", "data", "random"]

Rows = tuple[Tensor, Tensor | None, Tensor | None, Cond]
"""Index (B,), x0 and x1 (B, C, H, W), one of which may be None, and cond (B, …)."""


class Origin(Checked, ABC):
    """The ends that pairs begin with: row i is a function of i alone."""

    name: From
    shape: tuple[int, ...]
    seed: int
    codec: Codec
    unseeded: str | None = None
    """What x0 is, where it cannot be drawn again from (seed, index)."""
    prompted: PromptedNoise | None = None
    """Source with prompts, which a store has beside its pairs."""

    def stored(self, index: Tensor, cond: Cond) -> Cond:
        """Return the conditions (B, …) of rows (B,) as shards have them: of a prompt its number."""
        return cond if self.prompted is None else self.prompted.as_stored(index, cond)

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> Rows:
        """Draw or read rows: index (B,), x0 and x1 (B, C, H, W), one of which may be None, cond (B, …)."""

    @abstractmethod
    def facts(self, counts: list[int]) -> dict[str, Any]:
        """Describe these ends for the manifest; ``counts`` as in ``plan``."""

    def further_facts(self) -> dict[str, Any]:
        """Describe the codec, and dtype and shape of conditions other than labels; most manifests need
        neither.
        """
        index, _, _, cond = self.rows([0])
        cond = {name: value for name, value in self.stored(index, cond).items() if name != "label"}
        check_conditions(cond, "couple")
        conditions = {
            name: [str(value.dtype).removeprefix("torch."), list(value.shape[1:])]
            for name, value in cond.items()
        }
        facts = {"codec": codec_facts(self.codec), "conditions": conditions}
        return {name: value for name, value in facts.items() if value}

    def check(self, x0: X0, x1: X1) -> None:
        """Refuse dtypes that cannot hold these pairs.

        Raises:
            FlowlitError: naming one that can.
        """
        if x0 == "seed" and self.unseeded is not None:
            raise FlowlitError(f"couple: {self.unseeded} has no seed; store it: --x0 float16")
        if x1 == "uint8" and not self.codec.pixels:
            raise FlowlitError(
                f"couple: x1 of {type(self.codec).__name__} are no pixels, and --x1 uint8 has 256 levels of "
                "[-1, 1]; store them with --x1 float16"
            )


class FromNoise(Origin):
    """Rows of a ``Source``, to be carried to data: the couplings of reflow.

    Args:
        noise: usually ``SeededNoise``.
        codec: of the model that computes x1; None is ``Pixels``.
    """

    name: From = "noise"

    def __init__(self, noise: Source, codec: Codec | None = None):
        self.noise = noise
        self.codec = codec or Pixels()
        self.shape = noise.shape
        self.seed = noise.seed
        self.prompted = noise if isinstance(noise, PromptedNoise) else None
        if noise.identity().get("generator") != GENERATOR:
            self.unseeded = f"x0 of {type(noise).__name__}"

    def rows(self, indices: Sequence[int]) -> Rows:
        """Draw rows: index (B,), x0 (B, C, H, W), None, cond (B, …)."""
        noise = self.noise.batch(indices)
        return noise.index, noise.x0, None, noise.cond

    def facts(self, counts: list[int]) -> dict[str, Any]:
        elsewhere = ("seed", "shape", "num_classes", "labels")  # in the manifest
        own = {name: value for name, value in self.noise.identity().items() if name not in elsewhere}
        if not self.noise.standard_normal:
            own["standard_normal"] = False
        labels = self.noise.labels_of(counts)
        return {"noise": own, "images": None, "labels": labels, **self.further_facts()}


class FromData(Origin):
    """Real images, to be carried back to their noise by the flow in reverse (inversion).

    Args:
        images: the data set.
        num_classes: of its labels; 0 leaves them out.
        codec: images to x1; None is ``Pixels``.
    """

    name: From = "data"
    seed = 0  # nothing is drawn: image i is image i
    unseeded: str | None = "noise that the flow finds from data"

    def __init__(self, images: ImageDataset, num_classes: NonNegativeInt = 0, codec: Codec | None = None):
        self.images = images
        self.num_classes = num_classes
        self.codec = codec or Pixels()
        self.shape = self.codec.encoded_shape(images[0]["x1"].shape)

    def rows(self, indices: Sequence[int]) -> Rows:
        """Read rows: index (B,), None, x1 (B, C, H, W), cond (B, …)."""
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
        names = self.images.classes if self.num_classes else None
        return {
            "noise": {"generator": "the flow in reverse"},
            "images": {"sha256": self.images.fingerprint},
            "labels": labels,
            **({"classes": list(names)} if names else {}),
            **self.further_facts(),
        }


class Random(FromData):
    """Seeded noise beside real images, independent of each other; no flow is needed. Images repeat with other
    noise. Args as for ``FromData``, and the seed of the noise.
    """

    name: From = "random"
    unseeded = None

    def __init__(
        self,
        images: ImageDataset,
        num_classes: NonNegativeInt = 0,
        seed: Seed = 0,
        codec: Codec | None = None,
    ):
        super().__init__(images, num_classes, codec)
        self.noise = SeededNoise(self.shape, 1, seed)
        self.seed = seed

    def rows(self, indices: Sequence[int]) -> Rows:
        """Draw and read rows: index (B,), x0 and x1 (B, C, H, W), cond (B, …)."""
        index, _, x1, cond = super().rows(indices)
        return index, self.noise.batch(indices).x0, x1, cond

    def facts(self, counts: list[int]) -> dict[str, Any]:
        return {**super().facts([1]), "noise": {"generator": GENERATOR}}


def make_origin(
    name: From,
    noise: Source,
    num: int,
    seed: int,
    images: ImageDataset | None = None,
    labels: str | None = None,
    codec: Codec | None = None,
) -> Origin:
    """Build the origin that ``flowlit couple --origin`` names.

    Args:
        name: noise, data or random.
        noise: where noise starts, and the number of classes.
        num: pairs in all.
        seed: of the noise.
        images: data to start from.
        labels: file of classes, see ``read_labels``; only for noise.
        codec: of the model; None is ``Pixels``.

    Raises:
        FlowlitError: if images are missing, or labels are given for rows that bring their own.
    """
    if name == "noise":
        return FromNoise(_reseeded(noise, num, seed, labels), codec)
    if name not in ("data", "random"):
        raise FlowlitError(f"couple: origin is {name!r}; expected noise, data or random")
    if images is None:
        raise FlowlitError(
            f"couple --origin {name} starts from images: --data.coupling flowlit.couplings.Independent "
            "--data.coupling.images …"
        )
    if noise.num_classes and "label" not in images[0]["cond"]:
        raise FlowlitError(
            f"couple: data.noise.num_classes is {noise.num_classes}, but the images bring no labels (labels: "
            "true)"
        )
    counts = images.label_counts() if noise.num_classes else None
    if counts:
        check_occurring((), counts, noise.num_classes, images.classes, "the images")
    if labels:
        raise FlowlitError(f"couple --origin {name} takes the labels of its images; drop --labels")
    if name == "data":
        return FromData(images, noise.num_classes, codec)
    return Random(images, noise.num_classes, seed, codec)


def _reseeded(noise: Source, num: int, seed: int, labels: str | None) -> Source:
    """Return the noise of a store: with its seed and number of rows, and labels given to it or balanced."""
    source = noise.reseeded(seed)
    if isinstance(source, SeededNoise):
        given = read_labels(labels) if labels else None
        return source.relabelled(None).first(num).relabelled(given)
    if labels:
        raise FlowlitError(f"couple: {type(noise).__name__} has conditions of its own; drop --labels")
    return source.first(num)
