"""A configuration that is examined."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import lightning.pytorch as pl
from torch import nn

from ...couplings.mixed import MixedPairs
from ...couplings.store.reader import StoredPairs
from ...modules import FlowDataModule
from ...objectives import FlowGuided
from ...types import ImageDataset
from ..couple import CoupleOptions
from .measured import Measured
from .plan import output_folder

PLANNED = "planned"
"""Entry of the manifest of a store that stands in for one of so many pairs."""

Level = Literal["problem", "warning", "hint"]


T = TypeVar("T")


class Finding(NamedTuple):
    """A suspicion, and what mends it.

    A problem stops the run or ruins it, a warning may be meant, a hint is advice.
    """

    level: Level
    what: str
    mend: str = ""


@dataclass
class Subject:
    """A configuration, as far as it has been opened and measured; None stands for what is missing yet."""

    trainer: pl.Trainer
    model: Any
    data: FlowDataModule
    options: CoupleOptions | None = None
    """Couplings that are to be made, instead of training."""
    gpus: tuple[str, ...] = ()
    """GPUs for which there are estimates, too."""
    writes: Path | None = None
    """Folder of the results, if it is not the trainer's."""
    missing: int = 0
    """Pairs of them that are not there yet."""
    resumes: bool = False
    """Whether a checkpoint was read, to go on from."""
    pair_bytes: int = 0
    """Bytes of one of them on disk."""
    pairs: Any = None
    """The opened data set of the coupling."""
    steps: int | None = None
    """Optimizer steps of the run."""
    validations: int | None = None
    """How often it validates."""
    share: int = 1
    """Samples on a device at a time."""
    opened: dict[str, str] = field(default_factory=dict)
    """States of what a run reads and writes, by name."""
    findings: list[Finding] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)

    @property
    def trains(self) -> bool:
        """True if there is something to train on."""
        return self.data.coupling is not None and self.options is None

    @property
    def images(self) -> int:
        """Samples that are generated at each validation, or pairs to make."""
        if self.options is not None:
            return self.missing
        return 0 if self.data.noise is None else len(self.data.noise)

    @property
    def validated(self) -> int:
        """Held-out images that a classifier is validated on."""
        images = self.data.validation
        return 0 if images is None else len(images)  # type: ignore[arg-type]

    @property
    def rows(self) -> int | None:
        """Rows to train on; of a store that stands in for one to come, as many as that will have."""
        if self.stands_in:
            return sum(manifest.get(PLANNED, manifest["count"]) for manifest in self.manifests)
        return None if self.pairs is None else len(cast(Sized, self.pairs))

    @property
    def stands_in(self) -> bool:
        """True if pairs to train on stand in for those to come."""
        return any(PLANNED in manifest for manifest in self.manifests)

    @property
    def folder(self) -> Path | None:
        """The folder of a run's results; None if it writes nothing."""
        return self.writes or output_folder(self.trainer)

    @property
    def trained_images(self) -> ImageDataset | None:
        """The images of the coupling, if it has some."""
        images = getattr(self.data.coupling, "images", None)
        return images if isinstance(images, ImageDataset) else None

    @property
    def stored(self) -> StoredPairs | None:
        """The stores that pairs come from, if they do."""
        # row numbers stand for pairs that are resident on the device
        pairs = getattr(self.pairs, "pairs", self.pairs)
        return pairs if isinstance(pairs, StoredPairs) else None

    @property
    def manifests(self) -> list[dict[str, Any]]:
        """Manifests of all stores that are trained on."""
        parts = self.pairs.parts if isinstance(self.pairs, MixedPairs) else [self.stored]
        return [manifest for part in parts if part is not None for manifest in part.manifests]

    @property
    def samples_a_step(self) -> int:
        """Samples of an optimizer step, on all devices together."""
        batches = self.trainer.accumulate_grad_batches * getattr(self.model, "global_batches", 1)
        return self.share * batches * self.trainer.world_size

    @property
    def seconds_a_step(self) -> float | None:
        """Seconds of an optimizer step with the whole batch, estimated on one device."""
        step = self.measured.step
        if step is None:
            return None
        return step.seconds / step.samples * self.samples_a_step / self.trainer.world_size

    def callbacks(self, kind: type[T]) -> list[T]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]

    def objectives(self, kind: type[T]) -> list[T]:
        """Return the objective, or the parts of it that are of a kind."""
        objective = getattr(self.model, "objective", None)
        parts = objective.modules() if isinstance(objective, nn.Module) else []
        return [part for part in parts if isinstance(part, kind)]

    def guides(self) -> Iterator[nn.Module]:
        return (part.guide.network for part in self.objectives(FlowGuided))
