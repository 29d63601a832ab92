"""What happens around training and validation. Callbacks and modules meet at attribute names only."""

from .anneal import Anneal
from .checkpoint import LastCheckpoint
from .dashboard import Dashboard
from .ema import EMA
from .fid import FID
from .gradients import Gradients
from .graphs import Graphs
from .images import ImageWriter
from .interpolations import Interpolations
from .kernels import ChannelsLast, Compile, MatmulPrecision, Recompute
from .loss_over_time import LossOverTime
from .neighbours import Neighbours
from .pairs import PairWriter
from .progress import Progress
from .report import Report
from .rollback import Rollback
from .samples import Samples
from .signals import Signals
from .straightness import Straightness
from .throughput import Throughput
from .trajectories import Trajectories

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
    "PairWriter",
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
