"""Networks that predict a velocity, and how to get trained ones."""

from __future__ import annotations

from typing import Any

from .adapters import ClassifierFreeGuidance, DiffusionVelocity
from .adm import ADM
from .classifier import SmallClassifier
from .edm import EDM
from .empirical import EmpiricalFlow
from .identity import fingerprint
from .pretrained import pretrained
from .unet import UNet

__all__ = [
    "ADM",
    "EDM",
    "ClassifierFreeGuidance",
    "DiT",
    "DiffusionVelocity",
    "EmpiricalFlow",
    "SmallClassifier",
    "UNet",
    "fingerprint",
    "pretrained",
]


def __getattr__(name: str) -> Any:
    """Import timm, which takes two seconds, only for those who want a transformer."""
    if name == "DiT":
        from .dit import DiT

        return DiT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
