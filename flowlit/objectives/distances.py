"""Distances between images or velocities a and b, (B, C, H, W), one number per sample, (B,)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..frozen import Frozen
from ..types import Distance


def per_sample(x: Tensor) -> Tensor:
    """Average over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1)


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
    """Mean of sqrt((a - b)² + c²) - c: squared for small differences, absolute for large ones, pixel by
    pixel.
    """

    def __init__(self, c: float = 0.03):
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

    def __init__(self, c: float = 0.00054):
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

    def __init__(self, resize: int | None = 64):
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
    except OSError as error:
        raise FlowlitError(
            f"LPIPS: its weights are not in {torch.hub.get_dir()}/checkpoints and could not be downloaded "
            f"({error}). "
            "Expected vgg16-397923af.pth (torchvision) and weights-vgg16-lpips.pth (torch-fidelity): put "
            "them there, or "
            "choose another distance, e.g. --model.objective.distance "
            "flowlit.objectives.distances.SquaredError"
        ) from error


class FeatureDistance(Distance):
    """Compare the outputs of named layers of any network: Σ_layers mean (f(a) - f(b))².

    Args:
        network: takes (B, C, H, W) in [-1, 1]; frozen here.
        layers: names as in ``network.named_modules()``.
        normalize: scale every feature vector (along the channels) to length 1 first, as LPIPS does.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], normalize: bool = True):
        super().__init__()
        known = dict(network.named_modules())
        missing = [name for name in layers if name not in known]
        if missing or not layers:
            raise FlowlitError(
                f"FeatureDistance: layers {missing or layers} not in {type(network).__name__}: "
                f"{list(known)[1:]}"
            )
        self._network = Frozen(network)
        self.normalize = normalize
        self._caught: list[Tensor] = []
        for name in layers:
            known[name].register_forward_hook(lambda _module, _inputs, output: self._caught.append(output))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return torch.stack(
            [per_sample((fa - fb) ** 2) for fa, fb in zip(self._features(a), self._features(b), strict=True)]
        ).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        self._caught.clear()
        self._network(x)
        return [F.normalize(f, dim=1) if self.normalize else f for f in self._caught]


class WeightedSum(Distance):
    """Add distances with weights, e.g. LPIPS + 1 · AbsoluteError."""

    def __init__(self, distances: list[Distance], weights: list[float] | None = None):
        super().__init__()
        self.distances = nn.ModuleList(distances)
        self.weights = weights or [1.0] * len(distances)
        if len(self.weights) != len(distances):
            raise FlowlitError(f"WeightedSum: {len(distances)} distances but {len(self.weights)} weights")

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each sample, (B,)."""
        return torch.stack([w * d(a, b) for w, d in zip(self.weights, self.distances, strict=True)]).sum(0)
