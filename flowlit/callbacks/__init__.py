"""What happens around training and validation. Callbacks and modules meet at attribute names only."""

from .evaluation.dashboard import Dashboard
from .evaluation.fid import FID
from .evaluation.images import ImageWriter
from .evaluation.interpolations import Interpolations
from .evaluation.neighbours import Neighbours
from .evaluation.report import Report
from .evaluation.samples import Samples
from .evaluation.straightness import Straightness
from .evaluation.trajectories import Trajectories
from .speed.compile import Compile
from .speed.graphs import Graphs
from .speed.memory import ChannelsLast, Recompute
from .speed.precision import MatmulPrecision
from .training.anneal import Anneal
from .training.checkpoint import LastCheckpoint
from .training.ema import EMA
from .training.gradients import Gradients
from .training.loss_over_time import LossOverTime
from .training.progress import Progress
from .training.rollback import Rollback
from .training.signals import Signals
from .training.throughput import Throughput

__all__ = [
    "EMA",
    "FID",
    "Anneal",
    "ChannelsLast",
    "Compile",
    "Dashboard",
    "Gradients",
    "Graphs",
    "ImageWriter",
    "Interpolations",
    "LastCheckpoint",
    "LossOverTime",
    "MatmulPrecision",
    "Neighbours",
    "Progress",
    "Recompute",
    "Report",
    "Rollback",
    "Samples",
    "Signals",
    "Straightness",
    "Throughput",
    "Trajectories",
]
