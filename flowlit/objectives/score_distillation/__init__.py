"""Distillation of a guide's distribution instead of its pairs: a generator, and a critic that follows it."""

from .adversarial import Adversarial, adversarial_loss, approximate_r1, discriminator_loss
from .base import ScoreDistillation
from .holders import ReverseKL, ScoreIdentity
from .losses import mixture_loss, reverse_kl_loss, score_identity_loss
from .presets import DMD, DMD2, SIM, UID, DiffInstruct, FDistill, RealUID, ReDMD, SiD
from .ratio import DensityRatio, divergence_weight

__all__ = [
    "DMD",
    "DMD2",
    "SIM",
    "UID",
    "Adversarial",
    "DensityRatio",
    "DiffInstruct",
    "FDistill",
    "ReDMD",
    "RealUID",
    "ReverseKL",
    "ScoreDistillation",
    "ScoreIdentity",
    "SiD",
    "adversarial_loss",
    "approximate_r1",
    "discriminator_loss",
    "divergence_weight",
    "mixture_loss",
    "reverse_kl_loss",
    "score_identity_loss",
]
