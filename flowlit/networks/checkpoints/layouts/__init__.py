"""Formats of other projects' files, for the networks that we have, too. See docs/checkpoints.md."""

from .base import Layout
from .diffusers import DiffusersLayout
from .edm import EDMLayout
from .own import OwnLayout
from .resshift import ResShiftLayout
from .slimflow import SlimFlowLayout

LAYOUTS: tuple[type[Layout], ...] = (SlimFlowLayout, EDMLayout, DiffusersLayout, ResShiftLayout)
"""Formats that are recognised by the names of their tensors, in the order in which they are tried."""

__all__ = [
    "LAYOUTS",
    "DiffusersLayout",
    "EDMLayout",
    "Layout",
    "OwnLayout",
    "ResShiftLayout",
    "SlimFlowLayout",
]
