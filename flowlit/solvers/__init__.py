"""From noise to data along a velocity."""

from .adaptive import RK45, rk45
from .base import Counted, march
from .edm import EDMHeun, edm_heun
from .grids import sigma_grid, time_grid
from .multistep import Adams
from .one_step import OneStep
from .runge_kutta import RK2, RK4, Euler, Heun, Midpoint, Ralston
from .stochastic import SDE, ReNoise

__all__ = [
    "RK2",
    "RK4",
    "RK45",
    "SDE",
    "Adams",
    "Counted",
    "EDMHeun",
    "Euler",
    "Heun",
    "Midpoint",
    "OneStep",
    "Ralston",
    "ReNoise",
    "edm_heun",
    "march",
    "rk45",
    "sigma_grid",
    "time_grid",
]
