"""Rewards: numbers of single images, larger for better ones, and their two uses, which are different things.

``RewardGradient`` follows a reward's gradient, and moves the generator's distribution to where it is larger.
``RewardWeight`` weighs the samples on which a divergence is lessened: where the generator can be exact it
ends at the guide's distribution, whatever the reward.
"""

from .base import Reward
from .networks import ClassifierReward, NearestImages
from .pictures import (
    Brightness,
    Colourfulness,
    JPEGSize,
    MirrorSymmetry,
    Saturation,
    Sharpness,
    TotalVariation,
)
from .uses import RewardGradient, RewardWeight

__all__ = [
    "Brightness",
    "ClassifierReward",
    "Colourfulness",
    "JPEGSize",
    "MirrorSymmetry",
    "NearestImages",
    "Reward",
    "RewardGradient",
    "RewardWeight",
    "Saturation",
    "Sharpness",
    "TotalVariation",
]
