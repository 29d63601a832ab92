"""Networks that predict a velocity, and how to get trained ones."""

from .classifier import SmallClassifier
from .empirical import EmpiricalFlow
from .pretrained import fingerprint, pretrained
from .unet import UNet

__all__ = ["EmpiricalFlow", "SmallClassifier", "UNet", "fingerprint", "pretrained"]
