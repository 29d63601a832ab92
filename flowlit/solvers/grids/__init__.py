"""Grids of times and of noise levels."""

from .base import MOST, TimeGrid, check_grid, check_steps, sigma_grid, time_grid
from .closed_form import EarlyStop, Given, Karras, LogSNR, Power, Quadratic, Shifted, Sine
from .diffusion import DiffusionSteps, FScheduler

__all__ = [
    "MOST",
    "DiffusionSteps",
    "EarlyStop",
    "FScheduler",
    "Given",
    "Karras",
    "LogSNR",
    "Power",
    "Quadratic",
    "Shifted",
    "Sine",
    "TimeGrid",
    "check_grid",
    "check_steps",
    "sigma_grid",
    "time_grid",
]
