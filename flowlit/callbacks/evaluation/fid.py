"""Fréchet distances of generated images and their relatives, during training and after."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import MeanMetric

from ..._engine.ranks import on_rank_zero
from ..._support.batch_invariance import BLOCK, in_blocks
from ...data.classes import check_same_names, class_names_of
from ...data.provenance import trained_on
from ...errors import FlowlitError
from ...metrics import Inception
from ...metrics.base import FeatureBatch, FeatureExtractor, FeatureMetric, Reference
from ...metrics.fidelity import tag
from ...metrics.frechet import Moments, frechet_distance
from ...metrics.protocol import check_dimension, check_reference, other_images, read_otherwise
from ...metrics.reference import cached_reference, read_reference
from ...solvers.base import non_finite
from ...types import Codec, ImageDataset
from .base import Evaluation, data_of, noise_of
from .feature_metrics import FeatureMetrics, RealImages, check_metric
from .generated_features import GeneratedFeatures

REFERENCE = "make one of images of the classes that it was trained on: flowlit reference"


class FID(Evaluation):
    """Fréchet distance between what each solver generated and real images, mean NFE, and further measures.

    Logged as ``fid/<solver>`` in Inception's features, ``frechet_<features>/<solver>`` in others, and
    ``nfe/<solver>``. In ``fit`` features are summed up as they come. In ``validate`` and ``test`` they are
    kept in the run's folder (see ``GeneratedFeatures``), so that also ``fid_half/<solver>``, of the first
    half of the images, and the measures are logged. Distances of different numbers of images must not be
    compared.

    Args:
        features: the extractor.
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
        self._moments: dict[str, Moments] = {}
        self._nfe: dict[str, MeanMetric] = {}
        self._generated: GeneratedFeatures | None = None  # in validate and test
        self._protocol: dict[str, Any] = {}

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
        if stage in ("validate", "test"):
            data_of(trainer).skip(self.state_key, lambda: self._open(trainer, pl_module))

    def _open(self, trainer: pl.Trainer, module: Any) -> np.ndarray:
        self._generated = GeneratedFeatures(self.features, trainer, module)
        return self._generated.stored

    def _prepare(self, trainer: pl.Trainer, module: Any) -> RealImages:
        """Return the real images, read (or measured) and compared with this run once."""
        if self._real is None:
            device = str(module.device)
            first = on_rank_zero(trainer, lambda: self._reference(device))
            reference = first or self._reference(device)
            classes = reference.protocol.get("classes")
            ours = class_names_of(module.network)
            check_same_names(classes, ours, f"reference {reference.path}", "the network", REFERENCE)
            if other := other_images(reference, trained_on(module.network)):
                rank_zero_warn(other)
            blank = torch.zeros(BLOCK, *noise_of(trainer).shape, device=module.device)
            self._real = compared(reference, self.features, module.codec.decode(blank))
            warn_of_few_images(len(noise_of(trainer)), self._real.dim)
        return self._real

    def _reference(self, device: str) -> Reference:
        if isinstance(self.reference, str):
            return read_reference(self.reference)
        keep = any(measure.needs_real for measure in self.measures)
        return cached_reference(self.reference, self.features, self.cache, keep, device)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        real = self._prepare(trainer, module)
        for measure in self.measures:
            check_metric(measure, self.features, real, len(noise_of(trainer)))
        if self._generated is None:
            self._moments = {name: Moments(real.dim).to(module.device) for name in module.solvers}
            self._nfe = {name: MeanMetric().to(module.device) for name in module.solvers}
        else:
            self._generated.check(trainer, module, real.dim, real.classes)
            if any(measure.needs_real for measure in self.measures):
                on_rank_zero(trainer, real.reference.check_features)

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        rows = {"index": outputs["noise"].index.cpu()}
        for name, solution in outputs["solutions"].items():
            extracted = extract(self.features, module.codec, solution.x1, name)
            if self._generated is None:
                self._moments[name].update(extracted.features)
                self._nfe[name].update(solution.nfe.float())
            rows |= {f"{name}.features": extracted.features, f"{name}.nfe": solution.nfe}
            rows |= {} if extracted.logits is None else {f"{name}.logits": extracted.logits}
        if self._generated is not None:
            self._generated.add(rows, first=batch_idx == 0)

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        real = self._prepare(trainer, module)
        if self._generated is None:
            self._log_moments(module, real.reference)
            return
        self._generated.cache.flush()
        trainer.strategy.barrier("features")
        metrics = FeatureMetrics(self.features, self.measures, real, self._generated)
        self._protocol = on_rank_zero(trainer, lambda: metrics.measure(trainer, module)) or {}

    def _log_moments(self, module: Any, real: Reference) -> None:
        for name, moments in self._moments.items():
            mean, cov = moments.compute()
            distance = frechet_distance(mean.cpu(), cov.cpu(), real.mean, real.cov)
            # equal on all ranks, each of which may monitor it
            module.log(f"{tag(self.features.name)}/{name}", distance)
            module.log(f"nfe/{name}", self._nfe[name].compute())

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


def warn_of_few_images(num: int, dim: int) -> None:
    """Warn of too few images for a covariance of ``dim`` features."""
    if num <= dim:
        rank_zero_warn(
            f"{num} images for {dim} features: their covariance has rank {num - 1} at most, and the distance "
            f"is too large; generate {dim + 1} or more"
        )


@torch.no_grad()
def compared(reference: Reference, features: FeatureExtractor, blank: Tensor) -> RealImages:
    """Compare a reference with the features of blank images (B, C, H, W), shaped as this run's.

    Raises:
        FlowlitError: if it contradicts them.
    """
    extracted = features.extract(blank)
    dim = extracted.features.shape[1]
    not_compared = check_reference(reference, features, blank.shape[1:])
    check_dimension(reference, dim)
    if not_compared:
        rank_zero_warn(f"reference {reference.path} lacks its {', '.join(not_compared)}; not compared")
    classes = 0 if extracted.logits is None else extracted.logits.shape[1]
    return RealImages(reference, dim, classes, not_compared)


def extract(features: FeatureExtractor, codec: Codec, x1: Tensor, solver: str) -> FeatureBatch:
    """Return the features of x1 (B, C, H, W) as images; refuse what is not finite.

    Raises:
        FlowlitError: stating how many images, or features, are not finite.
    """
    bad = non_finite(x1)
    if bad:
        raise FlowlitError(
            f"{solver}: {bad} of {len(x1)} generated images are not finite; training has diverged"
        )
    extracted = FeatureBatch(*in_blocks(features.extract, codec.decode(x1)))
    bad = non_finite(extracted.features)
    if bad:
        raise FlowlitError(
            f"{solver}: {bad} of {len(x1)} images have {features.name} features that are not finite"
        )
    return extracted


def check_name(features: FeatureExtractor) -> None:
    """Refuse a name that would be taken for another's, or that could not stand in tags.

    Raises:
        FlowlitError: stating the rule that the name breaks.
    """
    if not re.fullmatch(r"\w+", features.name) or features.name.endswith("_half"):
        raise FlowlitError(
            f"features are called {features.name!r}, which becomes part of tags; use letters, digits and _"
        )
    if features.name.split("_")[0] == "inception" and not isinstance(features, Inception):
        raise FlowlitError(
            f"{type(features).__name__} is called {features.name!r}, but only Inception's are; choose "
            "another name"
        )
