"""Feature extractors for Fréchet distances, and reference statistics in their features."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from .codecs import Pixels
from .files import write_atomically
from .frozen import Frozen
from .metrics.frechet import Moments
from .networks.pretrained import fingerprint, pretrained
from .types import Features, FlowlitError, Images

_INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Inception(Features):
    """Inception's 2048 features in torch-fidelity's port of the original; the only ones whose distance is an FID.

    Args:
        weights: path of torch-fidelity's weights file; None downloads it (96 MB) at first use.
    """

    name = "inception"

    def __init__(self, weights: str | None = None):
        self.weights = weights
        self._network: Frozen | None = None

    def _load(self) -> Frozen:
        if self._network is None:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            try:
                network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=self.weights
                )
            except (urllib.error.URLError, FileNotFoundError) as error:
                place = self.weights or f"{torch.hub.get_dir()}/checkpoints"
                raise FlowlitError(
                    f"Inception: its weights were not found in {place} and could not be downloaded ({error}). Get "
                    f"{_INCEPTION_FILE} from torch-fidelity's releases and name it as features.weights, or use other features"
                ) from error
            self._network = Frozen(network)
        return self._network

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self._load()(images)[0].float()

    def fingerprint(self) -> str:
        return fingerprint(self._load().network)


class ClassifierFeatures(Features):
    """The penultimate features of a classifier that flowlit trained (``flowlit fit -c experiments/features_….yaml``).

    Distances in them compare models on the same data; they are not FIDs and mean nothing beside another classifier's.

    Args:
        checkpoint: of a ``Classifier`` module.
        name: appears in every tag and table, so that nobody takes the number for an FID.
    """

    def __init__(self, checkpoint: str, name: str):
        if name == Inception.name:
            raise FlowlitError(f"ClassifierFeatures: the name {name!r} is Inception's; choose another")
        self.checkpoint, self.name = checkpoint, name
        self._network: Frozen | None = None

    def _load(self) -> Frozen:
        if self._network is None:
            self._network = Frozen(_FeaturesOf(pretrained(self.checkpoint, "raw")))
        return self._network

    def __call__(self, images: Tensor) -> Tensor:
        return self._load()(Pixels().encode(images))

    def fingerprint(self) -> str:
        return fingerprint(self._load().network)


class _FeaturesOf(nn.Module):
    def __init__(self, classifier: nn.Module):
        super().__init__()
        if not callable(getattr(classifier, "features", None)):
            raise FlowlitError(f"{type(classifier).__name__} has no method `features`; train flowlit.networks.SmallClassifier")
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier.features(x)  # type: ignore[operator]


@torch.no_grad()
def reference_moments(
    images: Images, features: Features, folder: str | Path, device: torch.device | str = "cpu", batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the features of real images, kept in ``folder`` under a hash of images and features."""
    key = hashlib.sha256(f"{images.fingerprint} {features.fingerprint()}".encode()).hexdigest()[:16]
    path = Path(folder) / f"{features.name}-{key}.safetensors"
    if not path.exists():
        moments: Moments | None = None
        for batch in tqdm(DataLoader(images, batch_size=batch_size), desc=f"Reference in {features.name}", leave=False):
            f = features(batch["x1"].to(device)).cpu()
            moments = moments or Moments(f.shape[1])
            moments.update(f)
        if moments is None:
            raise FlowlitError("reference: no images")
        mean, cov = moments.compute()
        write_atomically(path, save({"mean": mean.contiguous(), "cov": cov.contiguous()}))
    found = load_file(path)
    return found["mean"], found["cov"]
