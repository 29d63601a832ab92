"""Closed-form weights of exponential integrators on the straight path; floats in, floats out.

From s to t the velocity's ODE is linear but for a prediction m, which a solver interpolates through nodes:

    x_t = A x_s + ∫ kernel(τ) m(τ) dτ ≈ A x_s + Σ w_j m_j.

m is the data x̂ = x + (1 - t) v, the noise ẑ = x - t v, or the velocity itself. Its polynomial is one in the
log-SNR λ = ln(t / (1 - t)) (DPM-Solver, UniPC), in t (DEIS's tAB), or in noise over signal (ρAB). Of order 1
they are all Euler's rule. Noise is data with the path turned round: t becomes 1 - t, and λ becomes -λ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Prediction = Literal["data", "noise", "velocity"]
Variable = Literal["log_snr", "time", "rho"]
Form = Literal["exact", "midpoint", "b1", "published"]
"""Of the first derivative: as the integral has it ("exact", also called Taylor); at order 2 by the midpoint
rule (UniPC's B2), or by UniPC's B1; "published", order 3 without a factor 2 of the second derivative."""


class Place(NamedTuple):
    """A time as its distances from both ends, so that neither is lost to rounding."""

    signal: float
    noise: float

    @property
    def is_end(self) -> bool:
        return self.signal == 0 or self.noise == 0


def place(t: float, prediction: Prediction) -> Place:
    """Return a time on the path of the data, or on that of the noise, which is the same turned round."""
    return Place(1 - t, t) if prediction == "noise" else Place(t, 1 - t)


def log_snr(t: float) -> float:
    """Return λ = ln(t / (1 - t)), infinite at the ends.

    >>> log_snr(0.5)
    0.0
    """
    if t in (0, 1):
        return math.copysign(math.inf, t - 0.5)
    return math.log(t) - math.log1p(-t)


def singular(prediction: Prediction, variable: Variable, s: float, t: float) -> bool:
    """Return whether a step takes Euler's rule alone, since its integral has no higher one.

    In λ and ρ those are the steps that touch an end of the path. In t it is the step that leaves the end
    where the prediction is the state itself: noise at 0, data at 1.
    """
    if variable == "time":
        return place(s, prediction).noise == 0 and prediction != "velocity"
    return s in (0, 1) or t in (0, 1)


def linear_part(prediction: Prediction, s: float, t: float) -> float:
    """Return A, the weight of the state: 1 for the velocity, (1 - t) / (1 - s) for data, t / s for noise."""
    if prediction == "velocity":
        return 1.0
    return place(t, prediction).noise / place(s, prediction).noise


def exponential_weights(
    prediction: Prediction,
    variable: Variable,
    nodes: Sequence[float],
    s: float,
    t: float,
    form: Form = "exact",
    scale: float = 0.0,
) -> list[float]:
    """Return the weights of m at s and at other nodes, whose sum integrates their polynomial over the step.

    Args:
        prediction: m.
        variable: of the polynomial.
        nodes: times besides s, none of them s; t itself for a corrector.
        s: start of the step.
        t: its end.
        form: how the first derivative is weighed.
        scale: multiplies that weight by 1 + scale · h, h the step in the variable.
    """
    start = place(s, prediction)
    end = place(t, prediction)
    if not nodes:
        return [end.signal - start.signal if prediction == "velocity" else _step(start, end)]
    h = distance(variable, start, end)
    order = 1 + len(nodes)
    moments = _moments(prediction, variable, start, end, order)
    if order == 2 and form == "midpoint":
        moments[1] = moments[0] * h / 2
    elif order == 2 and form == "b1":
        moments[1] = end.signal * h**2 / 2
    elif order == 3 and form == "published":
        moments[2] /= 2
    moments[1] *= 1 + scale * h
    relative = [distance(variable, start, place(node, prediction)) / h for node in nodes]
    powers = np.array([[r**k for r in relative] for k in range(1, order)], dtype=np.float64)
    scaled = [moments[k] / h**k for k in range(1, order)]
    others = np.linalg.solve(powers, scaled).tolist()
    return [moments[0] - sum(others), *others]


def distance(variable: Variable, start: Place, end: Place) -> float:
    """Return how far the variable goes between two places, not ends for λ; signed."""
    step = end.signal - start.signal
    if variable == "time":
        return step
    if variable == "rho":  # of the data it is signal over noise
        return step / (start.noise * end.noise)
    return math.log1p(step / (start.signal * end.noise))


def _step(start: Place, end: Place) -> float:
    """Return the integral of the kernel, the weight of a prediction that does not change."""
    return (end.signal - start.signal) / start.noise


def _moments(prediction: Prediction, variable: Variable, start: Place, end: Place, order: int) -> list[float]:
    """Return ∫ (u - u_s)^k · kernel over the step, for k below the order."""
    h = distance(variable, start, end)
    if variable == "log_snr":
        return _of_exponential(start, end, h, order)
    if prediction == "velocity":
        return [h ** (k + 1) / (k + 1) for k in range(order)]
    if variable == "rho":
        return [end.noise * h ** (k + 1) / (k + 1) for k in range(order)]
    return _of_inverse_square(start, end, h, order)


def _of_exponential(start: Place, end: Place, h: float, order: int) -> list[float]:
    """Return end.signal · ∫_0^h e^(r - h) r^k dr; by a series where the recursion would cancel."""
    if abs(h) < 1:
        return [
            end.signal
            * h ** (k + 1)
            * math.factorial(k)
            * sum((-h) ** j / math.factorial(j + k + 1) for j in range(20))
            for k in range(order)
        ]
    moments = [_step(start, end)]
    for k in range(1, order):
        moments.append(end.signal * h**k - k * moments[-1])
    return moments


def _of_inverse_square(start: Place, end: Place, h: float, order: int) -> list[float]:
    """Return ∫ (τ - s)^k (1 - t) / (1 - τ)² dτ; likewise."""
    share = h / start.noise
    if abs(share) < 0.5:
        rows = [sum((j + 1) * share ** (j + k + 1) / (j + k + 1) for j in range(60)) for k in range(order)]
        return [(1 - share) * row * start.noise**k for k, row in enumerate(rows)]
    left = end.noise / start.noise
    moments = [share]
    logarithm = -left * math.log(left) if left else 0.0
    for k in range(1, order):
        moments.append(moments[-1] - logarithm)
        logarithm -= left * share**k / k
    return [moment * start.noise**k for k, moment in enumerate(moments)]
