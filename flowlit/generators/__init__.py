"""A network, a solver and a codec: what turns noise into images."""

from .generator import Generator, load

__all__ = ["Generator", "load"]
