"""Fréchet distances of generated images and their relatives, during training and after."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from ..._engine.ranks import on_rank_zero
from ..._support.batch_invariance import BLOCK
from ...errors import FlowlitError
from ...metrics import FirstAvailable
from ...metrics.base import FeatureExtractor, FeatureMetric, Reference
from ...metrics.protocol import read_otherwise
from ...metrics.reference import cached_reference, read_reference
from ...types import ImageDataset
from .base import Evaluation, data_of, noise_of
from .feature_metrics import FeatureMetrics, RealImages, check_metric
from .fid_checks import (
    check_images,
    check_name,
    check_origin,
    compared,
    extract,
    warn_of_few_images,
    warn_of_own_features,
)
from .generated_features import GeneratedFeatures
from .streamed import Streamed


class FID(Evaluation):
    """Fréchet distance between what each solver generated and real images, mean NFE, and further measures.

    Logged as ``fid/<solver>`` in Inception's features, ``frechet_<features>/<solver>`` in others, and
    ``nfe/<solver>``. In ``fit`` features are summed up as they come. In ``validate`` and ``test`` they are
    kept in the run's folder (see ``GeneratedFeatures``), so that also ``fid_half/<solver>``, of the first
    half of the images, and the measures are logged. Distances of different numbers of images must not be
    compared.

    Args:
        features: the extractor. Where ``FirstAvailable`` has none, the mean NFE alone is measured.
        reference: real images, seen as they are (no flips), or a file that ``flowlit reference`` (or EDM, or
            clean-fid) wrote.
        measures: of ``flowlit.metrics``; for validate and test.
        cache: folder for the statistics of reference images.
    """

    def __init__(
        self,
        features: FeatureExtractor,
        reference: ImageDataset | str,
        measures: list[FeatureMetric] | None = None,
        cache: str = "data/statistics",
    ):
        self.features = features
        self.reference = reference
        self.measures = measures or []
        self.cache = cache
        self._real: RealImages | None = None
        self._streamed: Streamed | None = None
        self._generated: GeneratedFeatures | None = None  # in validate and test
        self._protocol: dict[str, Any] = {}
        self.without = ""  # why there are no features

    @property
    def state_key(self) -> str:
        return f"FID[{self.features.name}]"

    def protocol(self) -> dict[str, Any]:
        return self._protocol

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the extractor and the reference, so that a missing file stops the run before training."""
        if self.measures:
            raise FlowlitError(
                "FID: in a fit there is the Fréchet distance only; leave measures to validate and test"
            )
        if self.without:
            return
        reference = self._prepare(trainer, pl_module).reference
        images = getattr(data_of(trainer).coupling, "images", None)
        different = read_otherwise(reference, images.facts()) if isinstance(images, ImageDataset) else ""
        if different:
            rank_zero_warn(
                f"reference {reference.path} was read otherwise than the training images: {different}"
            )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Have the data leave out what an interrupted run has generated, once weights are loaded."""
        check_name(self.features)
        others: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(getattr(other, "state_key", None) == self.state_key for other in others) > 1:
            raise FlowlitError(
                f"two FID callbacks measure {self.features.name} features; leave one out, or name them apart"
            )
        self.without = self.features.missing() if isinstance(self.features, FirstAvailable) else ""
        if self.without:
            rank_zero_warn(f"no distance to real images is measured. {self.without}")
        elif stage in ("validate", "test"):
            data_of(trainer).skip(self.state_key, lambda: self._open(trainer, pl_module))

    def _open(self, trainer: pl.Trainer, module: Any) -> np.ndarray:
        self._generated = GeneratedFeatures(self.features, trainer, module)
        return self._generated.stored

    def _prepare(self, trainer: pl.Trainer, module: Any) -> RealImages:
        """Return the real images, read (or measured) and compared with this run once."""
        if self._real is None:
            device = str(module.device)
            reference = on_rank_zero(trainer, lambda: self._reference(device)) or self._reference(device)
            check_origin(reference, module.network)
            blank = torch.zeros(BLOCK, *noise_of(trainer).shape, device=module.device)
            self._real = compared(reference, self.features, module.codec.decode(blank))
            warn_of_few_images(len(noise_of(trainer)), reference.protocol.get("count"), self._real.dim)
            warn_of_own_features(self.features, getattr(module, "objective", None), module.network)
        return self._real

    def _reference(self, device: str) -> Reference:
        if isinstance(self.reference, str):
            return read_reference(self.reference)
        keep = any(measure.needs_real for measure in self.measures)
        return cached_reference(self.reference, self.features, self.cache, keep, device)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        if self.without:
            self._streamed = Streamed(module.solvers, 0, module.device)
            return
        real = self._prepare(trainer, module)
        for measure in self.measures:
            check_metric(measure, self.features, real, len(noise_of(trainer)))
        if self._generated is None:
            self._streamed = Streamed(module.solvers, real.dim, module.device)
        else:
            self._generated.check(trainer, module, real.dim, real.classes)
            if any(measure.needs_real for measure in self.measures):
                on_rank_zero(trainer, real.reference.check_features)

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        rows = {"index": outputs["noise"].index.cpu()}
        for name, solution in outputs["solutions"].items():
            check_images(solution.x1, name)
            if self.without:
                self._streamed.update(name, solution.nfe)  # type: ignore[union-attr]
                continue
            extracted = extract(self.features, module.codec, solution.x1, name)
            if self._streamed is not None:
                self._streamed.update(name, solution.nfe, extracted.features)
            rows |= {f"{name}.features": extracted.features, f"{name}.nfe": solution.nfe}
            rows |= {} if extracted.logits is None else {f"{name}.logits": extracted.logits}
        if self._generated is not None:
            self._generated.add(rows, first=batch_idx == 0)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        real = None if self.without else self._prepare(trainer, module)
        if self._streamed is not None and not (self.without and any_has_features(trainer)):
            self._streamed.log(module, self.features.name, real and real.reference)
        self._streamed = None
        if self._generated is None or real is None:
            return
        self._generated.cache.flush()
        trainer.strategy.barrier("features")
        metrics = FeatureMetrics(self.features, self.measures, real, self._generated)
        self._protocol = on_rank_zero(trainer, lambda: metrics.measure(trainer, module)) or {}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep the features on disk and clean up: Lightning calls no teardown after an exception."""
        if self._generated is not None:
            with suppress(FlowlitError):
                self._generated.cache.flush()
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "skip_none"):
            data.skip_none(self.state_key)
        if self._generated is not None:
            self._generated.close()
            self._generated = None


def any_has_features(trainer: pl.Trainer) -> bool:
    """Return whether an FID of a trainer has features; it logs the NFE of all images for those without."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, FID) and not callback.without for callback in callbacks)
