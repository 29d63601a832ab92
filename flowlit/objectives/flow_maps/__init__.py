"""Flow maps: an average velocity u(x, t, s), and the identities that it is learned by."""

from .averages import average, end_derivative, jump, start_derivative
from .base import FlowMapObjective
from .consistency import Consistency, consistency_loss
from .improved import ImprovedMeanFlow, own_guided_target
from .lagrangian import Lagrangian, lagrangian_loss
from .mean_flow import MeanFlow, guided_target, mean_flow_loss
from .splitting import Splitting, splitting_loss
from .trajectories import OnTrajectories, states, stored_states, trajectory_regression_loss
from .velocity_distillation import VelocityDistillation, velocity_distillation_loss

__all__ = [
    "Consistency",
    "FlowMapObjective",
    "ImprovedMeanFlow",
    "Lagrangian",
    "MeanFlow",
    "OnTrajectories",
    "Splitting",
    "VelocityDistillation",
    "average",
    "consistency_loss",
    "end_derivative",
    "guided_target",
    "jump",
    "lagrangian_loss",
    "mean_flow_loss",
    "own_guided_target",
    "splitting_loss",
    "start_derivative",
    "states",
    "stored_states",
    "trajectory_regression_loss",
    "velocity_distillation_loss",
]
