"""What a network is trained for: regression over a coupling (reflow), and distillation of its flow."""

from .distill import Combined, Distillation, FlowGuided, KStepDistillation, distillation_loss, flow_guided_loss
from .edm import EDMLoss
from .reflow import AnnealedReflow, RectifiedFlow, annealed_reflow_loss, rectified_flow_loss

__all__ = [
    "AnnealedReflow",
    "Combined",
    "Distillation",
    "EDMLoss",
    "FlowGuided",
    "KStepDistillation",
    "RectifiedFlow",
    "annealed_reflow_loss",
    "distillation_loss",
    "flow_guided_loss",
    "rectified_flow_loss",
]
