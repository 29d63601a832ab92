"""Generators with integers: which layers take how many bits, and files of them."""

from .settings import Settings
from .write import Quantised, quantise

__all__ = ["Quantised", "Settings", "quantise"]
