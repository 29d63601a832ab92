"""Joint laws of (noise, image): independent, simulated on the fly, or cached on disk."""

from .cached import Cached
from .flip import flip, random_flip
from .independent import Independent
from .mixed import Mixed
from .noise import SeededNoise, seeded_normal
from .simulated import Simulated
from .store import Store
from .stored import StoredPairs
from .transport import OptimalTransport

__all__ = [
    "Cached",
    "Independent",
    "Mixed",
    "OptimalTransport",
    "SeededNoise",
    "Simulated",
    "Store",
    "StoredPairs",
    "flip",
    "random_flip",
    "seeded_normal",
]
