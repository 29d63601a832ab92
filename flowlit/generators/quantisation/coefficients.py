"""Two numbers a step that make up for the rounding of a network: those of the state and of the velocity.

Q-Sched (2509.01624) searches them on a grid by a score of images; here they are the solution of a least
squares, or match moments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scales = tuple[float, float]
"""Of the state x and of the velocity v: x ← scale₀ x + Δ scale₁ v."""

NEUTRAL: Scales = (1.0, 1.0)

Fitting = Callable[[Tensor, Tensor, Tensor], Scales]
"""(x, move, target), all (B, c, h, w) -> the coefficients of one step."""

SEARCHED = 256
"""Images of a search in features, at most."""

EVALUATIONS = 40
"""Of its loss, at most."""


def paired(x: Tensor, move: Tensor, target: Tensor) -> Scales:
    """Return (a, b) of the least Σ(a x + b move - target)², all (B, c, h, w); never worse than (1, 1).

    Args:
        x: states at the beginning of a step.
        move: Δ times the velocity of the rounded network.
        target: states at its end, of the network as it was.
    """
    columns = torch.stack([x.double().flatten(), move.double().flatten()], 1)
    change = target.double().flatten() - columns.sum(1)
    solution = torch.linalg.lstsq(columns, change[:, None], driver="gelsd").solution[:, 0]
    return 1 + float(solution[0]), 1 + float(solution[1])


def moments(x: Tensor, move: Tensor, target: Tensor) -> Scales:
    """Return (a, b) for which a x + b move has means and variances of each pixel nearest to the target's.

    The target (N, c, h, w) need not be of the same noise as x and move (B, c, h, w).
    """
    from scipy.optimize import least_squares

    start = x.double().flatten(1)
    step = move.double().flatten(1)
    wanted = target.double().flatten(1)
    covariance = (start * step).mean(0) - start.mean(0) * step.mean(0)
    means = (start.mean(0), step.mean(0))
    variances = (start.var(0, correction=0), step.var(0, correction=0))

    def differences(scales: tuple[float, float]) -> object:
        a, b = map(float, scales)
        mean = a * means[0] + b * means[1] - wanted.mean(0)
        variance = a * a * variances[0] + 2 * a * b * covariance + b * b * variances[1]
        deviation = variance.clamp_min(0).sqrt() - wanted.std(0, correction=0)
        return torch.cat([mean, deviation]).numpy()

    result = least_squares(differences, NEUTRAL, bounds=([0.5, 0.5], [2.0, 2.0]))
    return float(result.x[0]), float(result.x[1])


def in_features(features: Callable[[Tensor], Tensor]) -> Fitting:
    """Return a fit for which means and deviations of features are nearest to the target's.

    It is the Fréchet distance of independent features, searched for by the simplex of Nelder and Mead from
    (1, 1), as Q-Sched searches a grid; what it returns is never worse than that.

    Args:
        features: (B, c, h, w) -> (B, d), of the end of the last step.
    """
    from scipy.optimize import minimize

    def fit(x: Tensor, move: Tensor, target: Tensor) -> Scales:
        start, step, end = (value[:SEARCHED] for value in (x, move, target))
        wanted = features(end).double()
        mean = wanted.mean(0)
        deviation = wanted.std(0, correction=0)

        def loss(scales: tuple[float, float]) -> float:
            rough = features((scales[0] * start + scales[1] * step).to(end.dtype)).double()
            apart = (rough.mean(0) - mean, rough.std(0, correction=0) - deviation)
            return float(sum(each.square().sum() for each in apart))

        simplex = [[1.0, 1.0], [1.02, 1.0], [1.0, 1.02]]
        options = {"initial_simplex": simplex, "maxfev": EVALUATIONS, "xatol": 1e-4, "fatol": 0.0}
        result = minimize(loss, NEUTRAL, method="Nelder-Mead", bounds=[(0.5, 2.0)] * 2, options=options)
        return float(result.x[0]), float(result.x[1])

    return fit
