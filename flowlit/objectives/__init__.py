"""Training objectives: regression over a coupling (reflow), and distillation of its flow."""

from .base import SampleObjective, TwoPlayerObjective
from .distillation import (
    Combined,
    Distillation,
    FlowGuided,
    KStepDistillation,
    distillation_loss,
    flow_guided_loss,
)
from .edm import EDMLoss
from .game import CombinedGame
from .moment_matching import MomentMatching
from .perceptual import LPIPSHuber, lpips_huber_loss
from .preference_holders import PSO, OfflinePSO
from .reflow import AnnealedReflow, RectifiedFlow, annealed_reflow_loss, rectified_flow_loss
from .rewards import RewardGradient
from .rollout import Rolled, Rollout
from .scale_distillation import ScaleDistillation, scale_distillation_loss
from .trajectory_distillation import TrajectoryDistillation, trajectory_loss
from .velocity_matching import VelocityMatching, velocity_matching_loss

__all__ = [
    "PSO",
    "AnnealedReflow",
    "Combined",
    "CombinedGame",
    "Distillation",
    "EDMLoss",
    "FlowGuided",
    "KStepDistillation",
    "LPIPSHuber",
    "MomentMatching",
    "OfflinePSO",
    "RectifiedFlow",
    "RewardGradient",
    "Rolled",
    "Rollout",
    "SampleObjective",
    "ScaleDistillation",
    "TrajectoryDistillation",
    "TwoPlayerObjective",
    "VelocityMatching",
    "annealed_reflow_loss",
    "distillation_loss",
    "flow_guided_loss",
    "lpips_huber_loss",
    "rectified_flow_loss",
    "scale_distillation_loss",
    "trajectory_loss",
    "velocity_matching_loss",
]
