"""A small convolutional classifier, whose features serve where Inception's make no sense."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import Checked, PositiveInt

_GAIN = 8.0
"""By which details are amplified: a difference of 16 levels of 255 is far from their limit."""

_WEIGHT = 5.0
"""Of details among the features, whose other entries vary more."""


class SmallClassifier(Checked, nn.Module):
    """Classify images (B, C, R, R) in [-1, 1] -> logits (B, classes); ``features`` are (B, dim).

    Three levels of two 3×3 convolutions with batch normalisation, halving the resolution in between. The
    features are those of the second level, averaged over positions: the last level's collapse to the classes
    and hardly see blur or artefacts.
    """

    def __init__(self, in_channels: PositiveInt = 1, num_classes: PositiveInt = 10, dim: PositiveInt = 64):
        super().__init__()
        if dim % 4:
            raise FlowlitError(f"SmallClassifier: dim {dim} must be a multiple of 4")

        self.spec = {
            "class_path": "flowlit.networks.SmallClassifier",
            "init_args": {"in_channels": in_channels, "num_classes": num_classes, "dim": dim},
        }

        def level(inputs: int, outputs: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for i in (inputs, outputs):
                layers += [
                    nn.Conv2d(i, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
            return layers

        self.body = nn.Sequential(*level(in_channels, dim // 4), nn.MaxPool2d(2), *level(dim // 4, dim))
        self.top = nn.Sequential(nn.MaxPool2d(2), *level(dim, dim))
        self.head = nn.Linear(dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Compute images (B, C, R, R) -> features (B, dim)."""
        return self.body(x).mean((2, 3))

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (B, dim) and logits (B, classes) of images (B, C, R, R) in one pass."""
        body = self.body(x)
        return body.mean((2, 3)), self.head(self.top(body).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute images (B, C, R, R) -> logits (B, classes)."""
        return self.features_and_logits(x)[1]


class SmallEncoder(SmallClassifier):
    """Describe images (B, C, R, R) in [-1, 1] by (B, dim), trained without labels (``Contrastive``).

    Its trunk is that of ``SmallClassifier``, and sees details beside the images. ``features`` are the
    trunk's, and how much of details there is in each channel: (B, dim + C).
    """

    def __init__(self, in_channels: PositiveInt = 3, dim: PositiveInt = 64):
        super().__init__(2 * in_channels, num_classes=dim, dim=dim)
        self.spec = {
            "class_path": "flowlit.networks.SmallEncoder",
            "init_args": {"in_channels": in_channels, "dim": dim},
        }

    def features(self, x: Tensor) -> Tensor:
        """Compute images (B, C, R, R) -> features (B, dim + C)."""
        return self.features_and_logits(x)[0]

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (B, dim + C) of images (B, C, R, R), and what training compares (B, dim)."""
        fine = details(x)
        trunk, compared = super().features_and_logits(torch.cat([x, fine], 1))
        return torch.cat([trunk, _WEIGHT * fine.abs().mean((2, 3))], 1), compared


def details(x: Tensor) -> Tensor:
    """Return what a blur of 3×3 would take from images (B, C, R, R), amplified, in [-1, 1]."""
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return torch.tanh(_GAIN * (x - blurred))
