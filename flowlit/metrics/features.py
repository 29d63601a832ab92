"""Feature extractors for Fréchet distances and their relatives, from networks of any kind."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from .._support.files import short_hash
from ..data import Pixels
from ..errors import FlowlitError
from ..frozen import FrozenLayers
from ..networks import SmallEncoder, pretrained
from ..networks.checkpoints.fingerprint import fingerprint
from ..networks.checkpoints.spec import build
from ..ranges import PositiveInt
from ..types import Codec, codec_of
from .base import FeatureBatch, FeatureExtractor


class NetworkFeatures(FeatureExtractor):
    """The output of one layer of any network, averaged over positions.

    ``flowlit.objectives.distances.FeatureDistance`` compares images by the same networks and layers.
    Distances in these features are no FIDs, and mean nothing beside those in another network's.

    Args:
        network: takes images (B, C, H, W) in [-1, 1], or x1 of the codec that its checkpoint names; frozen
            here, and evaluated in float32.
        layer: name as in ``network.named_modules()``; "" is the network's own output. One in the middle: the
            last ones of a classifier collapse to the classes, and hardly see blur or artefacts.
        name: appears in every tag and table, so that the number is not taken for an FID.
        resize: pixels a side to which images are brought first; None leaves them.
        classifies: whether the network's own output are logits, (B, classes).
    """

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        name: str,
        resize: PositiveInt | None = None,
        classifies: bool = False,
    ):
        check_name("NetworkFeatures", name)
        self.layer = layer
        self.name = name
        self.resize = "none" if resize is None else f"bilinear to {resize}×{resize}"
        self.classifies = classifies
        self._codec = _codec_for(network)
        self._layers: FrozenLayers | None = FrozenLayers(
            network, [layer, ""] if classifies else [layer], resize
        )

    def _load(self) -> FrozenLayers:
        assert self._layers is not None
        return self._layers

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, d) of uint8 images (B, C, H, W)."""
        return self.extract(images).features

    def extract(self, images: Tensor) -> FeatureBatch:
        """Return features (B, d), and of a classifier logits (B, classes), of uint8 images (B, C, H, W)."""
        network = self._load()
        outputs = network(self._codec.encode(images))
        features = outputs[self.layer]
        if features.dim() > 2:
            features = features.mean(tuple(range(2, features.dim())))
        return FeatureBatch(features, outputs[""] if self.classifies else None)

    def network(self) -> nn.Module:
        return self._load().network

    def fingerprint(self) -> str:
        return short_hash(fingerprint(self._load().network), self.layer, self.resize)


class ClassifierFeatures(NetworkFeatures):
    """The features of a classifier that flowlit trained (``flowlit fit -c experiments/features_….yaml``).

    Distances in them compare models on the same data; they are not FIDs and mean nothing beside another
    classifier's.

    Args:
        checkpoint: of a ``Classifier`` module.
        name: appears in every tag and table, so that the number is not taken for an FID.
    """

    resize = "none"
    classifies = True
    layer = "pooled"

    def __init__(self, checkpoint: str, name: str):
        check_name("ClassifierFeatures", name)
        self.checkpoint = checkpoint
        self.name = name
        self._layers = None

    def _load(self) -> FrozenLayers:
        if self._layers is None:
            network = pretrained(self.checkpoint, "raw")
            self._check(network)
            self._codec = _codec_for(network)
            self._layers = FrozenLayers(_Classifier(network), [self.layer, ""])
        return self._layers

    def _check(self, network: nn.Module) -> None:
        if isinstance(network, SmallEncoder):
            raise FlowlitError(
                f"ClassifierFeatures: {self.checkpoint} was trained without labels; expected a classifier, "
                "or take flowlit.metrics.OwnFeatures"
            )

    def missing(self) -> str:
        if Path(self.checkpoint).is_file():
            return ""
        name = type(self).__name__
        return (
            f"{name}: {self.checkpoint} does not exist; train it: flowlit fit -c experiments/features_….yaml"
        )

    def fingerprint(self) -> str:
        return fingerprint(self._load().network)


class OwnFeatures(ClassifierFeatures):
    """The features of a network that flowlit trained on one's own images, without labels.

    ``flowlit fit -c experiments/own/features.yaml`` trains it. Distances in them compare models of the same
    images; they are not FIDs, and mean nothing beside another network's.

    Args:
        checkpoint: of a ``Contrastive`` module.
        name: of the images. The features are called ``own_<name>`` in every tag and table.
    """

    classifies = False

    def __init__(self, checkpoint: str, name: str = "images"):
        super().__init__(checkpoint, f"own_{name}")

    def _check(self, network: nn.Module) -> None:
        if not isinstance(network, SmallEncoder):
            raise FlowlitError(
                f"OwnFeatures: {self.checkpoint} holds {type(network).__name__}, expected a SmallEncoder "
                "that was trained without labels: flowlit fit -c experiments/own/features.yaml"
            )


def _codec_for(network: nn.Module) -> Codec:
    """Return the codec of the network's checkpoint; pixels if it has none."""
    described = codec_of(network)
    return build(described, Codec) if described else Pixels()


class _Classifier(nn.Module):
    """A classifier whose features are a layer, ``pooled``."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        if not callable(getattr(classifier, "features", None)):
            raise FlowlitError(
                f"{type(classifier).__name__} has no method `features`; train "
                "flowlit.networks.SmallClassifier"
            )
        self.classifier = classifier
        self.pooled = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        both = getattr(self.classifier, "features_and_logits", None)
        features, logits = both(x) if both else (self.classifier.features(x), self.classifier(x))  # type: ignore[operator]
        self.pooled(features)
        return logits


def check_name(extractor: str, name: str) -> None:
    """Refuse a name of features that could not stand in tags, or that would be taken for Inception's.

    Raises:
        FlowlitError: stating the rule that the name breaks.
    """
    if name.split("_")[0] == "inception":
        raise FlowlitError(f"{extractor}: the name {name!r} is Inception's; choose another")
    if not name.replace("_", "").isalnum():
        raise FlowlitError(f"{extractor}: the name {name!r} becomes part of tags; use letters, digits and _")


def features_identity(features: FeatureExtractor, dim: int) -> dict[str, object]:
    """Return what a report and a reference state about an extractor with features of ``dim`` entries."""
    return {"name": features.name, "sha256": features.fingerprint(), "dim": dim, "resize": features.resize}
