"""Training objectives: regression over a coupling (reflow), and distillation of its flow."""

from .base import TwoPlayerObjective
from .distillation import (
    Combined,
    Distillation,
    FlowGuided,
    KStepDistillation,
    distillation_loss,
    flow_guided_loss,
)
from .edm import EDMLoss
from .perceptual import LPIPSHuber, lpips_huber_loss
from .reflow import AnnealedReflow, RectifiedFlow, annealed_reflow_loss, rectified_flow_loss

__all__ = [
    "AnnealedReflow",
    "Combined",
    "Distillation",
    "EDMLoss",
    "FlowGuided",
    "KStepDistillation",
    "LPIPSHuber",
    "RectifiedFlow",
    "TwoPlayerObjective",
    "annealed_reflow_loss",
    "distillation_loss",
    "flow_guided_loss",
    "lpips_huber_loss",
    "rectified_flow_loss",
]
