"""Distillation of a flow to one step whose time is a knob: every prediction lies on the teacher's trajectory.

OFTSR (Zhu et al. 2024, 2412.09465). The student sees the start x0 alone, and its v(x0, t) is the average
velocity of the teacher's flow from 0 to t: x_t = x0 + t v(x0, t), so that d/dt [t v(x0, t)] = v_θ(x_t, t).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from .._support.velocities import evaluate
from ..errors import FlowlitError
from ..frozen import Frozen
from ..paths.straight import expand
from ..ranges import NonNegativeFloat, Probability, Share
from ..types import Cond, Distance, Objective, Pair, Solver, TimeDistribution, VelocityField
from .distances import SquaredError
from .times import Uniform
from .weights import Remaining

Form = Literal["bootstrap", "pinn", "pde"]


def average_slope(
    guide: VelocityField, x_t: Tensor, t: Tensor, s: Tensor, cond: Cond = {}, *, r: float | None = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the guide's v(x_t, t), and its average along the flow from t to s (B,), both (B, C, H, W).

    The average is that of the second-order Runge-Kutta family: r = 1/2 midpoint, 2/3 Ralston, 1 Heun. None is
    Euler's rule, which saves an evaluation.
    """
    k1 = evaluate(guide, x_t, t, cond)
    if r is None:
        return k1, k1
    step = r * (s - t)
    k2 = evaluate(guide, x_t + expand(step, x_t) * k1, t + step, cond)
    return k1, k1 + (k2 - k1) / (2 * r)


def trajectory_target(v_t: Tensor, slope: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the average velocity (B, C, H, W) from 0 to s (B,), from v_t to t (B,) and the slope between.

    v_s = v_t + (s - t) / s · (slope - v_t). With Euler's slope it is BOOT's step (2306.05544) of the signal
    y = x0 + v: y_s = y_t + λ (x̂ - y_t), with the guide's endpoint x̂ and λ = 1 - t (1 - s) / (s (1 - t)).
    """
    return v_t + expand((s - t) / s, v_t) * (slope - v_t)


class Terms(NamedTuple):
    """Losses of each sample, (B,); None where a term is not computed."""

    trajectory: Tensor
    alignment: Tensor | None
    boundary: Tensor | None


def trajectory_loss(
    velocity: VelocityField,
    guide: VelocityField,
    pair: Pair,
    t: Tensor,
    *,
    s: Tensor,
    distance: Distance,
    r: float | None = 0.5,
    form: Form = "bootstrap",
    align: bool = True,
    boundary_at: float | None = 0.0,
) -> Terms:
    """Three losses (B,) of the average velocity at times t and s > t (B,); of the pair x0 and cond are used.

        trajectory    d( v(x0, s), sg[trajectory_target] )
        alignment     (1 - t)² d( v(x0, t), sg[v_θ(x_t, t)] )
        boundary      d( v(x0, t_min), sg[v_θ(x0, t_min)] ), with t_min = ``boundary_at``

    where x_t = x0 + t sg[v(x0, t)]. Zhu et al. 2024 (2412.09465). Another ``form`` of the first changes what
    gradients see, and not what is minimal: with R = slope - (s v(x0, s) - t v(x0, t)) / (s - t),

        bootstrap     d( v(x0, s), sg[v(x0, s) + (s - t) / s · R] ), which is the above
        pde           d( v(x0, s), sg[v(x0, s) + R] ), as in MeanFlow, with a difference for the derivative
        pinn          d( slope - R, sg[slope] ), the residual itself, as in 2411.08378

    No gradient reaches the guide, or the student through x_t. Without ``align`` and ``boundary_at``
    their terms are None, and cost nothing.
    """
    x0, _, cond = pair
    with nullcontext() if align or form == "pinn" else torch.no_grad():
        v_t = evaluate(velocity, x0, t, cond)
    v_s = evaluate(velocity, x0, s, cond)
    with torch.no_grad():
        x_t = x0 + expand(t, x0) * v_t
        k1, slope = average_slope(guide, x_t, t, s, cond, r=r)
    aligned = Remaining()(t) * distance(v_t, k1) if align else None
    boundary = None
    if boundary_at is not None:
        boundary = boundary_loss(velocity, guide, pair, t_min=boundary_at, distance=distance)
    return Terms(distance(*_compared(v_t, v_s, slope, t, s, form)), aligned, boundary)


def _compared(
    v_t: Tensor, v_s: Tensor, slope: Tensor, t: Tensor, s: Tensor, form: Form
) -> tuple[Tensor, Tensor]:
    """Return what a form compares: the student's side, and its target, both (B, C, H, W)."""
    if form == "bootstrap":
        return v_s, trajectory_target(v_t.detach(), slope, t, s)
    between = (expand(s, v_s) * v_s - expand(t, v_t) * v_t) / expand(s - t, v_s)
    return (between, slope) if form == "pinn" else (v_s, (v_s + slope - between).detach())


def boundary_loss(
    velocity: VelocityField, guide: VelocityField, pair: Pair, *, t_min: float, distance: Distance
) -> Tensor:
    """d( v(x0, t_min), sg[v_θ(x0, t_min)] ), (B,): near 0 the average velocity is that of the guide."""
    t = torch.full((len(pair.x0),), t_min, device=pair.x0.device)
    with torch.no_grad():
        target = evaluate(guide, pair.x0, t, pair.cond)
    return distance(evaluate(velocity, pair.x0, t, pair.cond), target)


class TrajectoryDistillation(Objective):
    """Distil a conditional flow to one step with a knob, x0 + v(x0, t), for the solver ``OneStep``.

    At t = 0 the student gives the mean of all images that fit the condition, at t = 1 one of them: for
    super-resolution fidelity and realism (OFTSR). It needs starts and conditions of a coupling, no images and
    no stored pairs. Use it with ``flowlit.couplings.SuperResolution``, and start the student from its guide's
    weights or, if it is smaller, from annealing reflow.

    A step costs three evaluations of the student with gradients and three of the guide. With ``align: 0`` one
    of the student's has none; with ``r: null`` the guide's are two.

    Args:
        guide: the teacher, a 1-rectified flow of the same coupling; frozen, absent from checkpoints.
        distance: None is the mean squared error.
        dt: step from t to s on the teacher's trajectory; shorter is more exact, and learned more slowly.
        r: how the guide makes it: 0.5 midpoint, 2/3 Ralston, 1 Heun; null is Euler, which is BOOT's target.
        form: "bootstrap" (OFTSR), "pinn" or "pde": what gradients see, as in ``trajectory_loss``. The paper
            found the others worse.
        align: weight of the alignment with the guide's velocity, which biases towards the mean where the
            trajectory is curved.
        boundary: weight of the boundary term.
        t_min: time of the boundary; the paper has 0.01.
        t_max: largest time that is trained; the paper has 0.99.
        times: distribution of t, which is cut off shortly before t_max; None is uniform between the two.
    """

    def __init__(
        self,
        guide: nn.Module,
        distance: Distance | None = None,
        dt: Share = 0.05,
        r: Share | None = 0.5,
        form: Form = "bootstrap",
        align: NonNegativeFloat = 0.01,
        boundary: NonNegativeFloat = 0.1,
        t_min: Probability = 0.0,
        t_max: Probability = 1.0,
        times: TimeDistribution | None = None,
    ):
        super().__init__()
        if not t_min + dt <= t_max:
            raise FlowlitError(
                f"TrajectoryDistillation: expected t_min + dt <= t_max, found t_min={t_min}, dt={dt}, "
                f"t_max={t_max}"
            )
        self.guide = Frozen(guide)
        self.distance = distance or SquaredError()
        self.dt = dt
        self.r = r
        self.form: Form = form
        self.align = align
        self.boundary = boundary
        self.t_min = t_min
        self.t_max = t_max
        self.times = times or Uniform(t_min, t_max)

    def on_attach(self, module: nn.Module) -> None:
        """Refuse a module that would integrate the student, which is no flow.

        Raises:
            FlowlitError: naming the solver to take.
        """
        solvers = cast(dict[str, Solver], getattr(module, "solvers", {}))
        others = [name for name, solver in solvers.items() if not getattr(solver, "takes_average", False)]
        if others:
            raise FlowlitError(
                "TrajectoryDistillation trains x0 + v(x0, t), which is no flow, but model.solvers has "
                f"{', '.join(others)}; expected {{class_path: flowlit.solvers.OneStep}} "
                "alone, of as many t as you like"
            )
        module.trains_flow = False  # type: ignore[assignment]

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), and each term, ()}."""
        t, s = self.steps(len(pair.x0), pair.x0.device)
        terms = trajectory_loss(
            velocity,
            self.guide,
            pair,
            t,
            s=s,
            distance=self.distance,
            r=self.r,
            form=self.form,
            align=self.align > 0,
            boundary_at=self.t_min if self.boundary else None,
        )
        self.report(s, terms.trajectory)
        parts = {name: term.mean() for name, term in terms._asdict().items() if term is not None}
        weights = {"trajectory": 1.0, "alignment": self.align, "boundary": self.boundary}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def steps(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Draw the times t and s, (n,), between which the guide steps; the last steps are shorter."""
        t = self.times(n, device).clamp(max=self.t_max - self.dt / 10)
        return t, (t + self.dt).clamp(max=self.t_max)
