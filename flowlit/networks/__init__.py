"""Networks that predict a velocity, and how to get trained ones."""

from __future__ import annotations

from typing import Any

from .._support.efficientnet_lite0 import load_efficientnet_lite0 as efficientnet_lite0
from .._support.names import MOVED, MovedModule
from .adm import ADM
from .autoencoder import LatentAutoencoder, StoredAutoencoder
from .checkpoints.fingerprint import fingerprint
from .checkpoints.load import pretrained
from .checkpoints.pipeline import as_velocity
from .classifier import SmallClassifier, SmallEncoder
from .empirical import EmpiricalFlow
from .latent_layers import ConvDecoder, ConvResidual, TimmEncoder
from .pruning import pruned
from .sizes import at_size
from .statistics import StoredStatistics
from .swin_unet import SwinUNet
from .unet import UNet
from .vq_autoencoder import StoredVQ, VQAutoencoder
from .wrappers.concatenated import ConcatenatedImage
from .wrappers.diffusers import DiffusersUNet
from .wrappers.diffusers_autoencoder import DiffusersAutoencoder
from .wrappers.diffusers_transformers import DiffusersSD3, DiffusersZImage
from .wrappers.diffusion import DiffusionVelocity
from .wrappers.fixed_time import FixedTime
from .wrappers.guidance import ClassifierFreeGuidance
from .wrappers.guidance_input import GuidanceInput
from .wrappers.low_rank import LowRank
from .wrappers.one_more_step import OneMoreStep
from .wrappers.preconditioning import EDM
from .wrappers.pruned import Pruned
from .wrappers.residual import ResShiftVelocity
from .wrappers.router import Router

__all__ = [
    "ADM",
    "EDM",
    "ChannelMean",
    "ClassifierFreeGuidance",
    "ConcatenatedImage",
    "ConvDecoder",
    "ConvResidual",
    "DiT",
    "DiffusersAutoencoder",
    "DiffusersSD3",
    "DiffusersUNet",
    "DiffusersZImage",
    "DiffusionVelocity",
    "Discriminator",
    "EmpiricalFlow",
    "FixedTime",
    "GuidanceInput",
    "LatentAutoencoder",
    "LowRank",
    "OneMoreStep",
    "Pruned",
    "ResShiftVelocity",
    "Router",
    "SmallClassifier",
    "SmallEncoder",
    "StoredAutoencoder",
    "StoredStatistics",
    "StoredVQ",
    "SwinUNet",
    "TimmEncoder",
    "UNet",
    "VQAutoencoder",
    "as_velocity",
    "at_size",
    "efficientnet_lite0",
    "fingerprint",
    "pretrained",
    "pruned",
]


def __getattr__(name: str) -> Any:
    """Import timm and torch.compile, which take two seconds each, only where a network needs them."""
    if name == "DiT":
        from .dit import DiT

        return DiT
    if name in ("ChannelMean", "Discriminator"):
        from . import critics

        return getattr(critics, name)
    if f"networks.{name}" in MOVED:
        return MovedModule(f"networks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
