"""LightningModules, one for each kind of network that is trained."""

from .base import FlowModule
from .classifier import Classifier
from .distill import OneStepStudent
from .reflow import ReflowStudent
from .teacher import Teacher

__all__ = ["Classifier", "FlowModule", "OneStepStudent", "ReflowStudent", "Teacher"]
