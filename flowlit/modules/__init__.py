"""LightningModules, one for each kind of network that is trained, and their data."""

from .autoencoder import AutoencoderModule
from .classifier import Classifier, Contrastive
from .codec import CodecModule
from .critic import Critic, CriticModule
from .datamodule import FlowDataModule
from .flow import FlowModule
from .stages import OneStepStudent, ReflowStudent, Teacher

__all__ = [
    "AutoencoderModule",
    "Classifier",
    "CodecModule",
    "Contrastive",
    "Critic",
    "CriticModule",
    "FlowDataModule",
    "FlowModule",
    "OneStepStudent",
    "ReflowStudent",
    "Teacher",
]
