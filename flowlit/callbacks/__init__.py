"""Callbacks around training, evaluation and speed. They never import modules: docs/architecture.md lists
where both meet.
"""

from __future__ import annotations

from typing import Any

from .._support.names import renamed
from .evaluation.conservativity import Conservativity
from .evaluation.dashboard import Dashboard
from .evaluation.fid import FID
from .evaluation.images import ImageWriter
from .evaluation.interpolations import Interpolations
from .evaluation.neighbours import NearestNeighbours
from .evaluation.paired import PairedMetrics
from .evaluation.report import Report
from .evaluation.samples import Samples
from .evaluation.straightness import Straightness
from .evaluation.trajectories import Trajectories
from .speed.compile import Compile
from .speed.graphs import CUDAGraphs
from .speed.memory import ActivationCheckpointing, ChannelsLast
from .speed.precision import MatmulPrecision
from .training.anneal import Anneal
from .training.best import BestCheckpoint
from .training.checkpoint import LastCheckpoint
from .training.ema import EMA
from .training.extra_logger import ExtraLogger
from .training.gradients import Gradients
from .training.loss_over_time import LossOverTime
from .training.progress import Progress
from .training.rollback import Rollback
from .training.signals import SaveOnSignal
from .training.summary import Summary
from .training.throughput import Throughput
from .training.training_cost import TrainingCost

__all__ = [
    "EMA",
    "FID",
    "ActivationCheckpointing",
    "Anneal",
    "BestCheckpoint",
    "CUDAGraphs",
    "ChannelsLast",
    "Compile",
    "Conservativity",
    "Dashboard",
    "ExtraLogger",
    "Gradients",
    "ImageWriter",
    "Interpolations",
    "LastCheckpoint",
    "LossOverTime",
    "MatmulPrecision",
    "NearestNeighbours",
    "PairedMetrics",
    "Progress",
    "Report",
    "Rollback",
    "Samples",
    "SaveOnSignal",
    "Straightness",
    "Summary",
    "Throughput",
    "TrainingCost",
    "Trajectories",
]


def __getattr__(name: str) -> Any:
    """Find callbacks by the names that they had before."""
    return renamed(__name__, name)
