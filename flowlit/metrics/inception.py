"""Inception's features, whose Fréchet distance is the FID."""

from __future__ import annotations

import os
import pickle
import textwrap
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from .._support.files import file_hash
from ..errors import FlowlitError
from ..frozen import Frozen
from ..networks.checkpoints.fingerprint import fingerprint
from .base import FeatureBatch, FeatureExtractor

INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of the weights of 2015, as torch-fidelity publishes them; with any others a distance is no FID."""

_FILE = "weights-inception-2015-12-05-6726825d.pth"


class Inception(FeatureExtractor):
    """Inception's 2048 features in torch-fidelity's port; the only ones whose distance is an FID.

    Images of any size are resized to 299×299 as TensorFlow 1 did ("legacy_tensorflow" in clean-fid); grey
    ones count as RGB.

    Args:
        weights: path of torch-fidelity's weights file; None downloads it (96 MB) at first use.
        sha256: first digits of its hash. With other weights than the published ones the features are
            called ``inception_<hash>``, and their distance is no FID.
    """

    resize = "bilinear to 299×299 as TensorFlow 1 (legacy_tensorflow)"
    classifies = True

    def __init__(self, weights: str | None = None, sha256: str = INCEPTION):
        if len(sha256) < 8:
            raise FlowlitError(f"Inception: sha256 is {sha256!r}; give at least its first 8 digits")
        self.weights = weights
        self.sha256 = sha256.lower()
        self.name = "inception" if INCEPTION.startswith(self.sha256) else f"inception_{self.sha256[:8]}"
        self._network: Frozen | None = None

    def _load(self) -> Frozen:
        if self._network is None:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            path = self._file()
            try:
                # torch-fidelity would run code in the file
                torch.load(path, map_location="cpu", weights_only=True, mmap=False)
                network = FeatureExtractorInceptionV3(
                    "inception-v3-compat",
                    ["2048", "logits_unbiased"],
                    feature_extractor_weights_path=str(path),
                )
            except (RuntimeError, EOFError, TypeError, AttributeError, pickle.UnpicklingError) as error:
                reason = textwrap.shorten(str(error), 200)
                raise FlowlitError(
                    f"Inception: {path} does not hold its weights ({reason}); {_how(path)}"
                ) from error
            self._network = Frozen(network)
        return self._network

    def _file(self) -> Path:
        """Find the weights, download them if need be, and compare their hash.

        Raises:
            FlowlitError: naming the file and how to get it.
        """
        path = Path(self.weights or Path(torch.hub.get_dir()) / "checkpoints" / _FILE)
        if not path.is_file():
            if self.weights is not None or self.name != "inception":
                raise FlowlitError(f"Inception: its weights were not found in {path}; {_how(path)}")
            self._download(path)
        digest = file_hash(path)
        if not digest.startswith(self.sha256):
            raise FlowlitError(
                f"Inception: {path} has SHA-256 {digest[:16]}…, expected {self.sha256[:16]}…; {_how(path)}"
            )
        return path

    def _download(self, path: Path) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            first = os.environ.get("LOCAL_RANK", "0") == "0"
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), self.sha256, progress=first)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise FlowlitError(
                f"Inception: its weights were not found in {path} and could not be downloaded ({error}); "
                f"{_how(path)}"
            ) from error

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, 2048) of uint8 images (B, C, H, W)."""
        return self.extract(images).features

    def extract(self, images: Tensor) -> FeatureBatch:
        """Return features (B, 2048) and logits (B, 1008) of uint8 images (B, C, H, W), grey or in colour."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        features, logits = self._load()(images)
        return FeatureBatch(features.float(), logits.float())

    def fingerprint(self) -> str:
        return fingerprint(self._load().network)


def _how(path: Path) -> str:
    return (
        f"get {_FILE} (96 MB, SHA-256 {INCEPTION[:8]}…) from torch-fidelity's releases and put it there, or "
        "name your copy as features.weights; for other weights give their features.sha256; or use other "
        "features (experiments/features_cifar.yaml)"
    )
