"""Paths from noise to data: the straight line, and other diffusions on it."""

from .diffusion import VE, ContinuousVP, DiscreteVE, DiscreteVP
from .noised import NoisedImage
from .residual import ResShift
from .sphere import interpolate_noise
from .straight import anneal, endpoint, expand, interpolate

__all__ = [
    "VE",
    "ContinuousVP",
    "DiscreteVE",
    "DiscreteVP",
    "NoisedImage",
    "ResShift",
    "anneal",
    "endpoint",
    "expand",
    "interpolate",
    "interpolate_noise",
]
