"""A network, a solver and a codec: what turns noise into images, and pictures of these."""

from .generator import Generator, load
from .pictures import grid, pil

__all__ = ["Generator", "grid", "load", "pil"]
