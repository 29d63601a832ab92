"""What happens around training and validation. Callbacks and modules meet at attribute names only."""

from .anneal import Anneal
from .checkpoint import LastCheckpoint
from .ema import EMA
from .fid import FID
from .gradients import Gradients
from .images import ImageWriter
from .pairs import PairWriter
from .progress import Progress
from .report import Report
from .samples import Samples
from .straightness import Straightness
from .throughput import Throughput

__all__ = [
    "EMA",
    "FID",
    "Anneal",
    "Gradients",
    "ImageWriter",
    "LastCheckpoint",
    "PairWriter",
    "Progress",
    "Report",
    "Samples",
    "Straightness",
    "Throughput",
]
