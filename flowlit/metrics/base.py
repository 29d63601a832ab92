"""Features of images, and what is measured by them: the abstract classes that YAML names."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from .._support.arrays import Npz
from ..errors import FlowlitError
from ..ranges import Checked
from .report import Estimate


class FeatureBatch(NamedTuple):
    """Features of images, in their order."""

    features: Tensor  # (N, d) float32
    logits: Tensor | None = None  # (N, classes) float32, where the extractor classifies, too


class NumberedFeatures(FeatureBatch):
    """Features of the samples of a run, which may be some of them, with their numbers."""

    numbers: Tensor
    """(N,) int64."""

    @classmethod
    def of(cls, features: Tensor, logits: Tensor | None, numbers: Tensor) -> NumberedFeatures:
        """Return features (N, d) and logits (N, classes) of samples (N,)."""
        batch = cls(features, logits)
        batch.numbers = numbers
        return batch


class FeatureExtractor(Checked, ABC):
    """Features of images for Fréchet distances and their relatives."""

    name: str
    """Part of every tag and table: a distance in other features than Inception's is not an FID."""
    resize: str = "none"
    """Change of the size of images, for reports."""
    classifies: bool = False
    """Whether ``extract`` returns logits, too."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, d) float32 of images (B, C, H, W) uint8."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the weights: extractors with the same fingerprint compute the same features."""

    def network(self) -> nn.Module | None:
        """Return the network that computes the features; None if there is none, or it is not at hand."""
        return None

    def missing(self) -> str:
        """Return in words, with what to do, which weights are not there; "" if they seem to be there."""
        return ""

    def extract(self, images: Tensor) -> FeatureBatch:
        """Return features, and logits if there are any, of images (B, C, H, W) uint8 in one pass."""
        return FeatureBatch(self(images))


def jackknife(without: Tensor) -> float:
    """Return the standard error of a number, from its values without each of n groups in turn, (n,).

    sqrt((n - 1) / n Σ (value - mean)²). Efron and Stein 1981.

    >>> round(jackknife(torch.tensor([1.0, 2.0, 3.0])), 4)  # a mean, of 6, 4 and 2
    1.1547
    """
    without = without.double()
    return float(((len(without) - 1) * without.var(unbiased=False)).sqrt())


class FeatureMetric(Checked, ABC):
    """Another measure of generated images by the same features: kernel distance, precision, …."""

    needs_real: bool = False
    """Whether it compares with the features of real images: their mean and covariance are not enough."""
    needs_logits: bool = False
    """Whether it needs an extractor that classifies."""
    numbers: tuple[str, ...] = ()
    """Names of its numbers; () where they are not known before it is computed."""
    higher: tuple[str, ...] = ()
    """Names of those of which more is better."""

    @abstractmethod
    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        """Return numbers by name, from features of generated images and (N, d) of real ones."""

    def check(self, generated: int, real: int | None) -> None:
        """Refuse, before any work, counts of images with which it is not defined.

        Raises:
            FlowlitError: saying which count it needs.
        """


class Reference(NamedTuple):
    """Real images that generated ones are compared with."""

    mean: Tensor
    """(d,) float64."""
    cov: Tensor
    """(d, d) float64."""
    kept: int
    """How many features the file holds."""
    protocol: dict[str, Any]
    """How they were taken, as far as the file has it."""
    path: Path

    def features(self) -> Tensor:
        """Read the features that were kept, (N, d) float32."""
        try:
            with Npz(self.path) as file, np.errstate(over="ignore"):
                features = file.read("features", "f").astype(np.float32, copy=False)
            if features.shape != (self.kept, len(self.mean)) or not np.isfinite(features).all():
                raise ValueError("they are not finite, or the file has changed")
        except (OSError, ValueError) as error:
            raise FlowlitError(
                f"{self.path}: its features cannot be read ({error}); make it again"
            ) from error
        return torch.from_numpy(features)

    def check_features(self) -> None:
        """Refuse features that cannot be read, before hours of work that they are needed after."""
        self.features()

    def sha256(self) -> str:
        """Hash mean and covariance."""
        return hashlib.sha256(self.mean.numpy().tobytes() + self.cov.numpy().tobytes()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return the facts that a report has."""
        return {"file": str(self.path), "sha256": self.sha256(), **self.protocol}


class Sums(Metric):
    """Sums of float64 over samples, streaming and over ranks.

    Args:
        alone: only this rank computes, and must not wait for others.
        shapes: of the sums, by name.
    """

    full_state_update = False

    def __init__(self, alone: bool = False, **shapes: tuple[int, ...]) -> None:
        super().__init__(sync_on_compute=not alone)
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)
