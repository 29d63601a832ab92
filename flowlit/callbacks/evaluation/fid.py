"""Fréchet distances of generated images and their relatives, during training and after."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchmetrics import MeanMetric
from tqdm import tqdm

from ..._engine.ranks import on_rank_zero
from ..._support.batch_invariance import BLOCK, in_blocks
from ..._support.files import short_hash
from ..._support.machine import hardware
from ..._version import __version__
from ...couplings import SeededNoise
from ...errors import FlowlitError
from ...metrics.feature_cache import FeatureCache
from ...metrics.features import Inception, features_identity
from ...metrics.fidelity import tag
from ...metrics.frechet import Moments, frechet_distance, frechet_estimates
from ...metrics.reference import Reference, cached_reference, check_dimension, check_reference, read_reference
from ...networks.checkpoints.fingerprint import identity
from ...types import Estimate, FeatureBatch, FeatureExtractor, FeatureMetric, ImageDataset
from .base import Evaluation


class FID(Evaluation):
    """Fréchet distance between what each solver generated and real images, mean NFE, and further measures.

    Logged as ``fid/<solver>`` in Inception's features, ``frechet_<features>/<solver>`` in others, and
    ``nfe/<solver>``. In ``validate`` and ``test`` also ``fid_half/<solver>``, of the first half of the
    images, and the measures; features are kept in the run's folder while they are made, so that an
    interrupted run goes on, and one that is finished can be measured again. In ``fit`` they are summed up as
    they come. Distances of different numbers of images must not be compared.

    Args:
        features: the extractor.
        reference: real images, seen as they are (no flips), or a file that ``flowlit reference`` (or EDM, or
            clean-fid) wrote.
        measures: of ``flowlit.metrics.fidelity``; for validate and test.
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
        self._real: Reference | None = None
        self._dim = self._classes = 0
        self._unchecked: list[str] = []
        self._moments: dict[str, Moments] = {}
        self._nfe: dict[str, MeanMetric] = {}
        self._bank: FeatureCache | None = None
        self._temporary: str | None = None
        self._known = np.empty(0, np.int64)
        self._told: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        return f"FID[{self.features.name}]"

    def protocol(self) -> dict[str, Any]:
        return self._told

    # -- before

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the extractor and the reference ready before training, so that what is missing is found
        then.
        """
        if self.measures:
            raise FlowlitError(
                "FID: in a fit there is the Fréchet distance only; leave measures to validate and test"
            )
        self._prepare(trainer, pl_module)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Let the data leave out what an interrupted run has generated; asked when weights are loaded."""
        check_name(self.features)
        others: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(getattr(other, "state_key", None) == self.state_key for other in others) > 1:
            raise FlowlitError(
                f"two FID callbacks measure {self.features.name} features; leave one out, or name them apart"
            )
        if stage in ("validate", "test"):
            _data(trainer).stored[self.state_key] = lambda: self._open(trainer, pl_module)

    def _open(self, trainer: pl.Trainer, module: Any) -> np.ndarray:
        """Find the bank for these weights, solvers, noise and features; tell which indices it holds."""
        weights = on_rank_zero(
            trainer, self.features.fingerprint
        )  # first there, so that one process downloads them
        told = [
            module.generation(),
            _noise(trainer).identity(),
            weights,
            str(trainer.precision),
            module.device.type,
            __version__,
        ]
        key = short_hash(json.dumps([*told, torch.__version__], sort_keys=True, default=str))
        folder = trainer.strategy.broadcast(self._folder(trainer) / f"{self.features.name}-{key}")
        self._bank = FeatureCache(folder, device=hardware(trainer.world_size, module.device)["device"])
        self._known = cast(
            np.ndarray, trainer.strategy.broadcast(cast(Any, on_rank_zero(trainer, self._clean)))
        )
        known = int((self._known < len(_noise(trainer))).sum())
        if known:
            rank_zero_info(
                f"flowlit: features of {known:,} of these images are in {folder} already, and are not taken "
                "again"
            )
        if others := [path for path in folder.parent.glob("*-*") if path.is_dir() and path != folder]:
            rank_zero_info(
                f"flowlit: {folder.parent} holds features of {len(others)} other sets; remove what you do "
                "not need"
            )
        return self._known

    def _clean(self) -> np.ndarray:
        assert self._bank is not None
        self._bank.clean()
        return self._bank.stored()

    def _folder(self, trainer: pl.Trainer) -> Path:
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.loggers and folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            return Path(folder) / "features"
        made = tempfile.mkdtemp(prefix="flowlit-features-") if trainer.is_global_zero else None
        self._temporary = trainer.strategy.broadcast(made)
        return Path(str(self._temporary))

    def _prepare(self, trainer: pl.Trainer, module: Any) -> Reference:
        if self._real is None:
            first = on_rank_zero(trainer, lambda: self._reference(str(module.device)))
            self._real = first or self._reference(str(module.device))
            with torch.no_grad():
                blank = module.codec.decode(torch.zeros(BLOCK, *_noise(trainer).shape, device=module.device))
                probe = self.features.extract(blank)
            self._unchecked = check_reference(self._real, self.features, blank.shape[1:])
            self._dim = probe.features.shape[1]
            self._classes = 0 if probe.logits is None else probe.logits.shape[1]
            check_dimension(self._real, self._dim)
            if self._unchecked:
                rank_zero_warn(
                    f"reference {self._real.path} does not tell its {', '.join(self._unchecked)}; not "
                    "compared"
                )
        return self._real

    def _reference(self, device: str) -> Reference:
        if isinstance(self.reference, str):
            return read_reference(self.reference)
        return cached_reference(
            self.reference, self.features, self.cache, any(m.needs_real for m in self.measures), device
        )

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        real = self._prepare(trainer, module)
        num = len(_noise(trainer))
        self._moments = {}
        self._nfe = {}
        for measure in self.measures:
            name = type(measure).__name__
            if measure.needs_logits and not self._classes:
                raise FlowlitError(
                    f"{name} needs classes, which {self.features.name} features do not give; leave it out"
                )
            if measure.needs_real and not real.kept:
                raise FlowlitError(
                    f"{name} needs the features of real images, and {real.path} holds their mean and "
                    "covariance only; "
                    "make it again with --keep_features true, or name the images as reference"
                )
            measure.check(num, real.kept or None)
        if trainer.state.fn == "fit":
            self._moments = {name: Moments(self._dim).to(module.device) for name in module.solvers}
            self._nfe = {name: MeanMetric().to(module.device) for name in module.solvers}
            return
        self._check_disk(trainer, module, num)
        if num <= self._dim:
            rank_zero_warn(
                f"{num} images for {self._dim} features: their covariance has rank {num - 1} at most, and "
                "the distance is too "
                f"large; generate {self._dim + 1} or more"
            )

    def _check_disk(self, trainer: pl.Trainer, module: Any, num: int) -> None:
        """Refuse before the first batch if the features of all images do not fit on the disk."""
        if self._bank is None or not trainer.is_global_zero:
            return
        missing = num - int((self._known < num).sum())
        needed = 4 * (len(module.solvers) * missing * (self._dim + self._classes) + num * self._dim)
        place = next(path for path in self._bank.folder.absolute().parents if path.exists())
        if needed > (free := shutil.disk_usage(place).free):
            raise FlowlitError(
                f"{place}: features of {missing:,} images need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} "
                "GB are free; "
                "free some, or evaluate fewer images or solvers"
            )

    # -- batch by batch

    def look(self, trainer: pl.Trainer, module: Any, outputs: Any, batch_idx: int) -> None:
        rows = {"index": outputs["noise"].index.cpu()}
        for name, solution in outputs["solutions"].items():
            extracted = self._extract(module, name, solution.x1)
            if trainer.state.fn == "fit":
                self._moments[name].update(extracted.features)
                self._nfe[name].update(solution.nfe.float())
            rows |= {f"{name}.features": extracted.features, f"{name}.nfe": solution.nfe}
            rows |= {} if extracted.logits is None else {f"{name}.logits": extracted.logits}
        if self._bank is not None:
            new = torch.from_numpy(~np.isin(rows["index"].numpy(), self._known))
            if batch_idx == 0 and not new.all():
                self._compare(self._bank, rows)
            if new.any():
                self._bank.add({name: tensor.cpu()[new] for name, tensor in rows.items()})

    def _compare(self, bank: FeatureCache, rows: dict[str, torch.Tensor]) -> None:
        """Refuse stored features that this run would not have made, because code has changed, say."""
        for name, made in rows.items():
            if name.endswith(".features"):
                index, stored = bank.some(name, rows["index"])
                made = made.cpu()[torch.isin(rows["index"], index)]
                if (made - stored).abs().max() > 0.05 * stored.std():
                    raise FlowlitError(
                        f"{bank.folder} holds other features of the same samples ({name}): has code of the "
                        "network, a solver, "
                        "the codec or the extractor changed? Remove that folder"
                    )

    def _extract(self, module: Any, solver: str, x1: torch.Tensor) -> FeatureBatch:
        """Features of x1 as images.

        Raises:
            FlowlitError: telling how many images, or features, are not finite.
        """
        if bad := int((~torch.isfinite(x1.flatten(1)).all(1)).sum()):
            raise FlowlitError(
                f"{solver}: {bad} of {len(x1)} generated images are not finite; training has diverged"
            )
        extracted = FeatureBatch(*in_blocks(self.features.extract, module.codec.decode(x1)))
        if bad := int((~torch.isfinite(extracted.features).all(1)).sum()):
            raise FlowlitError(
                f"{solver}: {bad} of {len(x1)} images have {self.features.name} features that are not finite"
            )
        return extracted

    # -- after

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        if self._bank is None:
            self._log_sums(trainer, module)
            return
        self._bank.flush()
        trainer.strategy.barrier("features")
        on_rank_zero(trainer, partial(self._log_measures, trainer, module, self._bank))

    def _log_sums(self, trainer: pl.Trainer, module: Any) -> None:
        real = self._prepare(trainer, module)
        for name, moments in self._moments.items():
            mean, cov = moments.compute()
            distance = frechet_distance(mean.cpu(), cov.cpu(), real.mean, real.cov)
            module.log(
                f"{tag(self.features.name)}/{name}", distance
            )  # equal on all ranks, which may monitor it
            module.log(f"nfe/{name}", self._nfe[name].compute())

    def _log_measures(self, trainer: pl.Trainer, module: Any, bank: FeatureCache) -> None:
        real = self._prepare(trainer, module)
        num = len(_noise(trainer))
        images = 0
        metrics: dict[str, float] = {}
        spread: dict[str, float] = {}
        features = real.features() if any(m.needs_real for m in self.measures) else None
        bar = tqdm(total=len(module.solvers) * (1 + len(self.measures)), desc="Measures", leave=False)
        for solver in module.solvers:
            for name, estimate in self._estimates(bank, solver, real, features, num, bar):
                label = f"{tag(self.features.name, name)}/{solver}"
                metrics[label] = float(estimate.value)
                spread |= {} if estimate.spread is None else {label: float(estimate.spread)}
            index, nfe = bank.read(f"{solver}.nfe", num)
            metrics[f"nfe/{solver}"] = float(nfe.double().mean())
            images = len(index)
        bar.close()
        for label, value in metrics.items():
            module.log(label, value, rank_zero_only=True)
        if images < num and not limited(trainer):
            raise FlowlitError(
                f"features of {images} of {num} images are there; did another process remove some from "
                f"{bank.folder}?"
            )
        if images < num:
            rank_zero_warn(f"{images} of {num} images were measured; limit_*_batches kept the others back")
        devices, seconds = bank.made()
        self._told = {
            "images": images,
            "metrics": metrics,  # as float64; Lightning keeps float32
            "spread": spread,
            "features": {
                self.features.name: {
                    **features_identity(self.features, self._dim),
                    "images": images,
                    "kept": int((self._known < num).sum()),
                    "made_on": devices,
                    "device_seconds": round(seconds, 1),
                    "reference": {**real.identity(), "not_compared": self._unchecked},
                    "measures": [identity(measure) for measure in self.measures],
                }
            },
        }

    def _estimates(
        self,
        bank: FeatureCache,
        solver: str,
        real: Reference,
        images: torch.Tensor | None,
        num: int,
        bar: tqdm,
    ) -> Iterator[tuple[str, Estimate]]:
        with bank.gathered(f"{solver}.features", num) as features:
            yield from frechet_estimates(features, real.mean, real.cov).items()
            bar.update()
            logits = (
                bank.read(f"{solver}.logits", num)[1] if any(m.needs_logits for m in self.measures) else None
            )
            for measure in self.measures:
                measure.check(
                    len(features), real.kept or None
                )  # again: there may be fewer than were asked for
                yield from estimates(measure, FeatureBatch(features, logits), images).items()
                bar.update()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep what was measured, and leave nothing behind in a program that goes on; Lightning calls no
        teardown then.
        """
        if self._bank is not None:
            with suppress(FlowlitError):
                self._bank.flush()
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._temporary is not None and trainer.is_global_zero:
            shutil.rmtree(self._temporary, ignore_errors=True)
        getattr(trainer.datamodule, "stored", {}).pop(self.state_key, None)  # type: ignore[attr-defined]
        self._bank = None
        self._temporary = None


def estimates(
    measure: FeatureMetric, generated: FeatureBatch, real: torch.Tensor | None
) -> dict[str, Estimate]:
    """What a measure finds.

    Raises:
        FlowlitError: if it returns something else than estimates.
    """
    found = measure(generated, real)
    if not all(isinstance(estimate, Estimate) for estimate in found.values()):
        raise FlowlitError(
            f"{type(measure).__name__} returned {found}; expected {{name: Estimate(value, spread)}}"
        )
    return found


def check_name(features: FeatureExtractor) -> None:
    """Refuse a name that would be taken for another's, or that could not stand in tags.

    Raises:
        FlowlitError: saying what is wrong with it.
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


def limited(trainer: pl.Trainer) -> bool:
    """Whether the user wants fewer batches than there are."""
    test = trainer.state.fn == "test"
    limit = trainer.limit_test_batches if test else trainer.limit_val_batches
    return bool(trainer.fast_dev_run) or limit != 1.0  # type: ignore[attr-defined]


def _data(trainer: pl.Trainer) -> Any:
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "evaluated"):
        raise FlowlitError("FID needs noise that is known by index: use data: flowlit.modules.FlowDataModule")
    return data


def _noise(trainer: pl.Trainer) -> SeededNoise:
    """What this run generates from."""
    return _data(trainer).evaluated("test" if trainer.state.fn == "test" else "validate")
