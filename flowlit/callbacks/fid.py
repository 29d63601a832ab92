"""Fréchet distances of generated images and their relatives, during training and after."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchmetrics import MeanMetric
from tqdm import tqdm

from ..bank import Bank
from ..blocks import BLOCK, in_blocks
from ..couplings.noise import SeededNoise
from ..features import features_identity, short_hash
from ..metrics.fidelity import tag
from ..metrics.frechet import Moments, frechet_distance, frechet_estimates
from ..references import Reference, cached_reference, check_dimension, check_reference, read_reference
from ..types import Estimate, Extracted, Features, FlowlitError, Images, Measure
from .evaluation import Evaluation


class FID(Evaluation):
    """Fréchet distance between what each solver generated and real images, mean NFE, and further measures.

    Logged as ``fid/<solver>`` in Inception's features, ``frechet_<features>/<solver>`` in others, and ``nfe/<solver>``. In
    ``validate`` and ``test`` also ``fid_half/<solver>``, of the first half of the images, and the measures; features are kept
    in the run's folder while they are made, so that an interrupted run goes on, and one that is finished can be measured
    again. In ``fit`` they are summed up as they come. Distances of different numbers of images must not be compared.

    Args:
        features: the extractor.
        reference: real images, seen as they are (no flips), or a file that ``flowlit reference`` (or EDM, or clean-fid) wrote.
        measures: of ``flowlit.metrics.fidelity``; for validate and test.
        cache: folder for the statistics of reference images.
    """

    def __init__(
        self,
        features: Features,
        reference: Images | str,
        measures: list[Measure] | None = None,
        cache: str = "data/statistics",
    ):
        self.features, self.reference, self.measures, self.cache = features, reference, measures or [], cache
        self._real: Reference | None = None
        self._dim = self._classes = 0
        self._moments: dict[str, Moments] = {}
        self._nfe: dict[str, MeanMetric] = {}
        self._bank: Bank | None = None
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
        """Have the extractor and the reference ready before training, so that what is missing is found then."""
        if self.measures:
            raise FlowlitError("FID: in a fit there is the Fréchet distance only; leave measures to validate and test")
        self._prepare(trainer, pl_module)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Let the data leave out what an interrupted run has generated; asked when weights are loaded."""
        others: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(getattr(other, "state_key", None) == self.state_key for other in others) > 1:
            raise FlowlitError(f"two FID callbacks measure {self.features.name} features; leave one out, or name them apart")
        if stage in ("validate", "test"):
            _data(trainer).stored[self.state_key] = lambda: self._open(trainer, pl_module)

    def _open(self, trainer: pl.Trainer, module: Any) -> np.ndarray:
        """Find the bank for these weights, solvers, noise and features; tell which indices it holds."""
        told = [module.generation(), _noise(trainer).identity(), self.features.fingerprint(), str(trainer.precision)]
        folder = self._folder(trainer) / f"{self.features.name}-{short_hash(json.dumps(told, sort_keys=True, default=str))}"
        self._bank = Bank(folder)
        known = self._known
        if trainer.is_global_zero:
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            known = self._bank.stored()
        self._known = trainer.strategy.broadcast(known)
        if len(self._known):
            rank_zero_info(f"flowlit: {len(self._known):,} images are in {folder} already, and are not generated again")
        if others := [path for path in folder.parent.glob("*-*") if path.is_dir() and path != folder]:
            rank_zero_info(f"flowlit: {folder.parent} holds features of {len(others)} other sets; remove what you do not need")
        return self._known

    def _folder(self, trainer: pl.Trainer) -> Path:
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.loggers and folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            return Path(folder) / "features"
        made = tempfile.mkdtemp(prefix="flowlit-features-") if trainer.is_global_zero else None
        self._temporary = trainer.strategy.broadcast(made)
        return Path(str(self._temporary))

    def _prepare(self, trainer: pl.Trainer, module: Any) -> Reference:
        if self._real is None:
            if not trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
            self._real = self._reference(str(module.device))
            if trainer.is_global_zero:
                trainer.strategy.barrier("reference statistics")
            shape = _noise(trainer).shape
            check_reference(self._real, self.features, shape)
            probe = self.features.extract(torch.zeros(BLOCK, *shape, dtype=torch.uint8, device=module.device))
            self._dim, self._classes = probe.features.shape[1], 0 if probe.logits is None else probe.logits.shape[1]
            check_dimension(self._real, self._dim)
        return self._real

    def _reference(self, device: str) -> Reference:
        if isinstance(self.reference, str):
            return read_reference(self.reference)
        return cached_reference(self.reference, self.features, self.cache, any(m.needs_real for m in self.measures), device)

    def begin(self, trainer: pl.Trainer, module: Any) -> None:
        real, num = self._prepare(trainer, module), len(_noise(trainer))
        self._moments, self._nfe = {}, {}
        for measure in self.measures:
            name = type(measure).__name__
            if measure.needs_logits and not self.features.classifies:
                raise FlowlitError(f"{name} needs classes, which {self.features.name} features do not give; leave it out")
            if measure.needs_real and real.features is None:
                raise FlowlitError(
                    f"{name} needs the features of real images, and {real.path} holds their mean and covariance only; "
                    "make it again with --keep_features true, or name the images as reference"
                )
            measure.check(num, None if real.features is None else len(real.features))
        if trainer.state.fn == "fit":
            self._moments = {name: Moments(self._dim).to(module.device) for name in module.solvers}
            self._nfe = {name: MeanMetric().to(module.device) for name in module.solvers}
            return
        self._check_disk(trainer, module, num)
        if num <= self._dim:
            rank_zero_warn(
                f"{num} images for {self._dim} features: their covariance has rank {num - 1} at most, and the distance is too "
                f"large; generate {self._dim + 1} or more"
            )

    def _check_disk(self, trainer: pl.Trainer, module: Any, num: int) -> None:
        """Refuse before the first batch if the features of all images do not fit on the disk."""
        if self._bank is None or not trainer.is_global_zero:
            return
        missing = num - int((self._known < num).sum())
        needed = 4 * len(module.solvers) * (self._dim * (missing + num) + self._classes * missing)
        place = next(path for path in self._bank.folder.absolute().parents if path.exists())
        if needed > (free := shutil.disk_usage(place).free):
            raise FlowlitError(
                f"{place}: features of {missing:,} images need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; "
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
            if new.any():
                self._bank.add({name: tensor.cpu()[new] for name, tensor in rows.items()})

    def _extract(self, module: Any, solver: str, x1: torch.Tensor) -> Extracted:
        """Features of x1 as images.

        Raises:
            FlowlitError: telling how many images, or features, are not finite.
        """
        if bad := int((~torch.isfinite(x1.flatten(1)).all(1)).sum()):
            raise FlowlitError(f"{solver}: {bad} of {len(x1)} generated images are not finite; training has diverged")
        extracted = Extracted(*in_blocks(self.features.extract, module.codec.decode(x1)))
        if bad := int((~torch.isfinite(extracted.features).all(1)).sum()):
            raise FlowlitError(f"{solver}: {bad} of {len(x1)} images have {self.features.name} features that are not finite")
        return extracted

    # -- after

    def end(self, trainer: pl.Trainer, module: Any) -> None:
        if self._bank is None:
            self._log_sums(trainer, module)
            return
        self._bank.flush()
        trainer.strategy.barrier("features")
        if trainer.is_global_zero:
            self._log_measures(trainer, module, self._bank)
        trainer.strategy.barrier("measures")

    def _log_sums(self, trainer: pl.Trainer, module: Any) -> None:
        real = self._prepare(trainer, module)
        for name, moments in self._moments.items():
            mean, cov = moments.compute()
            distance = frechet_distance(mean.cpu(), cov.cpu(), real.mean, real.cov)
            module.log(f"{tag(self.features.name)}/{name}", distance, rank_zero_only=True)
            module.log(f"nfe/{name}", self._nfe[name].compute(), rank_zero_only=True)

    def _log_measures(self, trainer: pl.Trainer, module: Any, bank: Bank) -> None:
        real, num, images = self._prepare(trainer, module), len(_noise(trainer)), 0
        metrics: dict[str, float] = {}
        spread: dict[str, float] = {}
        bar = tqdm(total=len(module.solvers) * (1 + len(self.measures)), desc="Measures", leave=False)
        for solver in module.solvers:
            for name, estimate in self._estimates(bank, solver, real, num, bar):
                label = f"{tag(self.features.name, name)}/{solver}"
                metrics[label] = float(estimate.value)
                spread |= {} if estimate.spread is None else {label: float(estimate.spread)}
            index, nfe = bank.read(f"{solver}.nfe", num)
            metrics[f"nfe/{solver}"], images = float(nfe.double().mean()), len(index)
        bar.close()
        for label, value in metrics.items():
            module.log(label, value, rank_zero_only=True)
        if images < num:
            rank_zero_warn(f"{images} of {num} images were measured; limit_*_batches kept the others back")
        self._told = {
            "images": images,
            "metrics": metrics,  # as float64; Lightning keeps float32
            "spread": spread,
            "features": {
                self.features.name: {
                    **features_identity(self.features, self._dim),
                    "images": images,
                    "kept": len(self._known),
                    "reference": real.identity(),
                    "measures": [repr(measure) for measure in self.measures],
                }
            },
        }

    def _estimates(self, bank: Bank, solver: str, real: Reference, num: int, bar: tqdm) -> Iterator[tuple[str, Estimate]]:
        with bank.gathered(f"{solver}.features", num) as features:
            yield from frechet_estimates(features, real.mean, real.cov).items()
            bar.update()
            logits = bank.read(f"{solver}.logits", num)[1] if self.features.classifies else None
            for measure in self.measures:
                measure.check(len(features), None if real.features is None else len(real.features))
                yield from measure(Extracted(features, logits), real.features).items()
                bar.update()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Keep what was measured, and leave nothing behind in a program that goes on; Lightning calls no teardown then."""
        if self._bank is not None:
            with suppress(FlowlitError):
                self._bank.flush()
        self.teardown(trainer, pl_module, "")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._temporary is not None and trainer.is_global_zero:
            shutil.rmtree(self._temporary, ignore_errors=True)
        getattr(trainer.datamodule, "stored", {}).pop(self.state_key, None)  # type: ignore[attr-defined]
        self._bank, self._temporary = None, None


def _data(trainer: pl.Trainer) -> Any:
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "evaluated"):
        raise FlowlitError("FID needs noise that is known by index: use data: flowlit.datamodule.FlowDataModule")
    return data


def _noise(trainer: pl.Trainer) -> SeededNoise:
    """What this run generates from."""
    return _data(trainer).evaluated("test" if trainer.state.fn == "test" else "validate")
