"""Distillation of a guide's distribution instead of its pairs: a generator, and a critic that follows it."""

from .adversarial import Adversarial, adversarial_loss, approximate_r1, discriminator_loss
from .base import ScoreDistillation
from .guidance import CFGAugmentation, cfg_augmentation
from .holders import ReverseKL, ScoreIdentity
from .losses import mixture_loss, reverse_kl_loss, score_identity_loss
from .presets import DMD, DMD2, SIM, UID, DecoupledDMD, DiffInstruct, FDistill, RealUID, ReDMD, SiD
from .ratio import DensityRatio, divergence_weight
from .trajectory import TDM, segment_loss, segment_pair

__all__ = [
    "DMD",
    "DMD2",
    "SIM",
    "TDM",
    "UID",
    "Adversarial",
    "CFGAugmentation",
    "DecoupledDMD",
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
    "cfg_augmentation",
    "discriminator_loss",
    "divergence_weight",
    "mixture_loss",
    "reverse_kl_loss",
    "score_identity_loss",
    "segment_loss",
    "segment_pair",
]
