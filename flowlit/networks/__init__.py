"""Networks that predict a velocity, and how to get trained ones."""

from .classifier import SmallClassifier
from .empirical import EmpiricalFlow
from .identity import fingerprint
from .pretrained import pretrained
from .unet import UNet

__all__ = ["EmpiricalFlow", "SmallClassifier", "UNet", "fingerprint", "pretrained"]
