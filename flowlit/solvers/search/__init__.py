"""Search for the schedule of a network and a number of evaluations."""

from .base import Strategy
from .dynamic import DynamicProgramming
from .evolution import Evolution
from .staged import Staged

__all__ = ["DynamicProgramming", "Evolution", "Staged", "Strategy"]
