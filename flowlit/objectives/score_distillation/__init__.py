"""Distillation of a guide's distribution instead of its pairs: a generator, and a critic that follows it."""

from .base import ScoreDistillation
from .holders import ReverseKL, ScoreIdentity
from .losses import reverse_kl_loss, score_identity_loss
from .presets import DMD, DMD2, SIM, UID, DiffInstruct, SiD

__all__ = [
    "DMD",
    "DMD2",
    "SIM",
    "UID",
    "DiffInstruct",
    "ReverseKL",
    "ScoreDistillation",
    "ScoreIdentity",
    "SiD",
    "reverse_kl_loss",
    "score_identity_loss",
]
