"""Numbers that move during training."""

from .learning_rate import WarmUp
from .values import Constant, Cosine, Exponential, Geometric, Linear, Piecewise, Sigmoid

__all__ = ["Constant", "Cosine", "Exponential", "Geometric", "Linear", "Piecewise", "Sigmoid", "WarmUp"]
