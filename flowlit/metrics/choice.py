"""Choice among extractors by the weights that are there."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor, nn

from ..errors import FlowlitError
from .base import FeatureBatch, FeatureExtractor


class FirstAvailable(FeatureExtractor):
    """The first of several extractors whose weights are there, decided when it is first used.

    The number has the name of the one that was taken. Where none is there, ``FID`` logs no distance and says
    why; anything else is an error.

    Args:
        extractors: in the order of preference.
    """

    def __init__(self, extractors: list[FeatureExtractor]):
        if not extractors:
            raise FlowlitError("FirstAvailable: extractors is empty; expected at least one")
        self.extractors = extractors

    @cached_property
    def chosen(self) -> FeatureExtractor:
        """The first extractor that is there; the first of all if none is, whose error says what to do."""
        return next((each for each in self.extractors if not each.missing()), self.extractors[0])

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.chosen.name

    @property
    def resize(self) -> str:  # type: ignore[override]
        return self.chosen.resize

    @property
    def classifies(self) -> bool:  # type: ignore[override]
        return self.chosen.classifies

    def missing(self) -> str:
        return "" if not self.chosen.missing() else "; or ".join(each.missing() for each in self.extractors)

    def __call__(self, images: Tensor) -> Tensor:
        return self.chosen(images)

    def extract(self, images: Tensor) -> FeatureBatch:
        """Return what the chosen extractor returns for uint8 images (B, C, H, W)."""
        return self.chosen.extract(images)

    def network(self) -> nn.Module | None:
        return self.chosen.network()

    def fingerprint(self) -> str:
        return self.chosen.fingerprint()
