"""What several tests share with ``couplings/test_origins.py``."""

from __future__ import annotations

import math

import torch
from tools import LinearField

from flowlit.data import Digits, Pixels
from flowlit.modules import FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import RK45

IMAGES = Digits(limit=12)


SHAPE = (1, 8, 8)


def encoded(indices):
    return Pixels().encode(torch.stack([IMAGES[i % 12]["x1"] for i in indices]))


def field_and_model(solver=None):
    field = LinearField()
    return field, FlowModule(field, RectifiedFlow(), solvers={"it": solver or RK45()})


def back(field, x1):
    """Where x1 came from: the solution of dx/dt = a x + b t + c in closed form."""
    a, b, c = (float(value.detach()) for value in (field.a, field.b, field.c))
    return math.exp(-a) * (x1 - c * math.expm1(a) / a - b * (math.expm1(a) - a) / a**2)
