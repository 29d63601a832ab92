"""What happens around training and validation. Callbacks and modules meet at attribute names only."""

from .anneal import Anneal
from .checkpoint import LastCheckpoint
from .dashboard import Dashboard
from .ema import EMA
from .fid import FID
from .gradients import Gradients
from .images import ImageWriter
from .interpolations import Interpolations
from .loss_over_time import LossOverTime
from .neighbours import Neighbours
from .pairs import PairWriter
from .progress import Progress
from .report import Report
from .samples import Samples
from .straightness import Straightness
from .throughput import Throughput
from .trajectories import Trajectories

__all__ = [
    "EMA",
    "FID",
    "Anneal",
    "Dashboard",
    "Gradients",
    "ImageWriter",
    "Interpolations",
    "LastCheckpoint",
    "LossOverTime",
    "Neighbours",
    "PairWriter",
    "Progress",
    "Report",
    "Samples",
    "Straightness",
    "Throughput",
    "Trajectories",
]
