"""Numbers that move during training."""

from .learning_rate import WarmUp
from .values import Constant, Cosine, Exponential, Linear, Piecewise

__all__ = ["Constant", "Cosine", "Exponential", "Linear", "Piecewise", "WarmUp"]
