"""From noise to data along a velocity."""

from .adaptive import RK45, rk45
from .adaptive_dpm import AdaptiveDPMSolver
from .base import Counted, march
from .deis import DEIS, RhoRK
from .dpm_solver import DPMSolver, SinglestepDPMSolver
from .dpm_solver_v3 import DPMSolverV3
from .edm import EDMHeun, edm_heun
from .flow_map import Jumps
from .grids import sigma_grid, time_grid
from .guided import Guided
from .multistep import Adams
from .one_step import OneStep
from .runge_kutta import RK2, RK4, Euler, Heun, Midpoint, Ralston
from .scaled import ScaledEuler
from .schedule import SolverSchedule
from .stochastic import SDE, ReNoise
from .unipc import UniPC

__all__ = [
    "DEIS",
    "RK2",
    "RK4",
    "RK45",
    "SDE",
    "Adams",
    "AdaptiveDPMSolver",
    "Counted",
    "DPMSolver",
    "DPMSolverV3",
    "EDMHeun",
    "Euler",
    "Guided",
    "Heun",
    "Jumps",
    "Midpoint",
    "OneStep",
    "Ralston",
    "ReNoise",
    "RhoRK",
    "ScaledEuler",
    "SinglestepDPMSolver",
    "SolverSchedule",
    "UniPC",
    "edm_heun",
    "march",
    "rk45",
    "sigma_grid",
    "time_grid",
]
