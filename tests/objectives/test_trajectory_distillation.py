"""OFTSR's distillation against closed forms: the recursion, its fixed point, and where gradients go."""

import math
from itertools import pairwise

import pytest
import torch
from restoration import SHAPE, Restoration, sigma_points
from tools import tiny_unet
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.metrics.frechet import frechet_distance
from flowlit.modules import FlowModule
from flowlit.objectives import TrajectoryDistillation, trajectory_loss
from flowlit.objectives.distances import AbsoluteError, SquaredError
from flowlit.objectives.times import Fixed
from flowlit.objectives.trajectory_distillation import average_slope, boundary_loss, trajectory_target
from flowlit.paths import expand
from flowlit.solvers import Euler, OneStep
from flowlit.types import Pair

SQUARED = SquaredError()
GUIDE = Restoration()
FORMS = ["bootstrap", "pinn", "pde"]


def pair(rows=6):
    points = torch.randn(rows, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return GUIDE.draw(points)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def recursion(steps, r):
    """Average velocities (steps + 1, B, …) that the trajectory term makes of each other, from t = 0 on."""
    x0, _, cond = pair()
    averages = [GUIDE(x0, times(*[0.0] * len(x0)), cond)]
    for k in range(steps):
        t, s = (torch.full((len(x0),), place / steps, dtype=torch.float64) for place in (k, k + 1))
        x_t = x0 + expand(t, x0) * averages[-1]
        slope = average_slope(GUIDE, x_t, t, s, cond, r=r)[1]
        averages.append(trajectory_target(averages[-1], slope, t, s))
    return torch.stack(averages)


def error(steps, r):
    x0, _, cond = pair()
    places = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    exact = torch.stack([GUIDE.average(x0, t.expand(len(x0)), cond) for t in places])
    return float((recursion(steps, r) - exact).abs().max())


@pytest.mark.parametrize(("r", "order"), [(None, 1), (0.5, 2), (2 / 3, 2), (1.0, 2)])
def test_the_recursion_converges_to_the_flow_with_the_order_of_the_guides_rule(r, order):
    coarse, fine = error(16, r), error(32, r)
    assert math.log2(coarse / fine) > order - 0.3
    assert fine < (0.4 if order == 1 else 0.02)


def test_the_first_average_is_the_posterior_mean():
    x0, _, cond = pair()
    torch.testing.assert_close(x0 + recursion(1, None)[0], GUIDE.posterior(cond), atol=1e-13, rtol=0)


def test_short_steps_and_small_t_tend_to_the_posterior_mean():
    """x0 + v(x0, t) as t falls to 0: of the target of a step from 0, and of the flow itself."""
    x0, _, cond = pair()
    mean = GUIDE.posterior(cond)
    away = []
    for t in (1e-2, 1e-3, 1e-4):
        s = torch.full((len(x0),), t, dtype=torch.float64)
        first, slope = average_slope(GUIDE, x0, 0 * s, s, cond)
        target = x0 + trajectory_target(first, slope, 0 * s, s)
        result = OneStep(t)(GUIDE.average, x0, cond).x1
        away.append([float((each - mean).abs().max()) for each in (target, result)])
    for before, after in pairwise(away):
        assert [a / b for a, b in zip(after, before, strict=True)] == pytest.approx([0.1, 0.1], rel=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_the_exact_average_has_no_loss(form):
    t = torch.linspace(0, 0.95, 6, dtype=torch.float64)
    terms = trajectory_loss(
        GUIDE.average, GUIDE, pair(), t, s=t + 1e-3, distance=SQUARED, form=form, boundary_at=0.0
    )
    assert float(terms.trajectory.max()) < 1e-9
    assert float(terms.boundary.max()) < 1e-25
    assert float(terms.alignment[0]) < 1e-25 and float(terms.alignment[3]) > 1e-4


def test_each_term_by_hand():
    data = pair(3)
    velocity = Table()
    t, s = times(0.1, 0.3, 0.7), times(0.2, 0.4, 0.8)
    terms = trajectory_loss(velocity, GUIDE, data, t, s=s, distance=SQUARED, boundary_at=0.1)
    for i in range(3):
        x0, cond = data.x0[i : i + 1], {"image": data.cond["image"][i : i + 1]}
        a, b = t[i : i + 1], s[i : i + 1]
        v_t, v_s = velocity(x0, a), velocity(x0, b)
        x_t = x0 + float(a) * v_t
        k1 = GUIDE(x_t, a, cond)
        k2 = GUIDE(x_t + 0.05 * k1, a + 0.05, cond)
        target = v_t + 0.1 / float(b) * (k2 - v_t)
        expected = [
            (v_s - target).square().mean(),
            (1 - float(a)) ** 2 * (v_t - k1).square().mean(),
            (velocity(x0, times(0.1)) - GUIDE(x0, times(0.1), cond)).square().mean(),
        ]
        torch.testing.assert_close(torch.stack([term[i] for term in terms]), torch.stack(expected))


def test_without_the_guides_second_evaluation_it_is_boots_step_of_the_signal():
    x0, _, cond = pair()
    t = torch.linspace(0.02, 0.9, 6, dtype=torch.float64)
    s = t + 0.07
    v_t = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_t = x0 + expand(t, x0) * v_t
    velocity = GUIDE(x_t, t, cond)
    endpoint = x_t + (1 - expand(t, x0)) * velocity
    share = expand(1 - t * (1 - s) / (s * (1 - t)), x0)
    signal = (x0 + v_t) + share * (endpoint - (x0 + v_t))
    slope = average_slope(GUIDE, x_t, t, s, cond, r=None)[1]
    torch.testing.assert_close(x0 + trajectory_target(v_t, slope, t, s), signal, atol=1e-12, rtol=0)


def test_forms_differ_by_a_factor_in_value():
    t, s = times(0.1, 0.3, 0.7), times(0.2, 0.4, 0.8)
    values = {
        form: trajectory_loss(Table(), GUIDE, pair(3), t, s=s, distance=SQUARED, form=form).trajectory
        for form in FORMS
    }
    torch.testing.assert_close(values["pinn"], values["pde"], rtol=1e-9, atol=0)
    torch.testing.assert_close(values["pde"], (s / (s - t)) ** 2 * values["bootstrap"], rtol=1e-9, atol=0)


# where gradients go


class Table(nn.Module):
    """v(x, t) = w[10 t] x: a weight of its own for every time, so that a gradient says where it went."""

    def __init__(self, places=11):
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(-1, 1, places, dtype=torch.float64))
        self.calls = 0

    def place(self, t):
        return (t * (len(self.weights) - 1)).round().long()

    def forward(self, x, t, cond={}):
        self.calls += 1
        return expand(self.weights[self.place(t)], x) * x

    def touched(self):
        """Return the places whose weight has a gradient, and forget it."""
        gradient, self.weights.grad = self.weights.grad, None
        return [] if gradient is None else gradient.nonzero().flatten().tolist()


class Linear(nn.Module):
    """v = a x, the field whose flow is x exp(a t)."""

    def __init__(self, a=0.8):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.calls = 0

    def forward(self, x, t, cond={}):
        self.calls += 1
        return self.a * x


@pytest.mark.parametrize(
    ("form", "reached"),
    [("bootstrap", [5]), ("pde", [5]), ("pinn", [3, 5])],
    ids=["bootstrap", "pde", "pinn"],
)
def test_gradients_reach_the_later_time_alone_and_no_guide(form, reached):
    student, guide = Table(), Linear()
    t, s = torch.full((6,), 0.3), torch.full((6,), 0.5)
    terms = trajectory_loss(student, guide, pair(), t, s=s, distance=SQUARED, form=form, boundary_at=0.0)
    for term, places in zip(terms, (reached, [3], [0]), strict=True):
        term.sum().backward(retain_graph=True)
        assert student.touched() == places
    assert guide.a.grad is None


def test_the_gradient_is_that_of_a_fixed_target():
    """Of neither x_t nor the target: with them in the graph the number would be another."""
    student, guide, data = Table(), Linear(), pair()
    t, s = torch.full((6,), 0.3), torch.full((6,), 0.5)
    trajectory_loss(student, guide, data, t, s=s, distance=SQUARED).trajectory.mean().backward()
    w_t, w_s = student.weights.detach()[[3, 5]]
    slope = 0.8 * (1 + 0.8 * 0.1) * (1 + 0.3 * w_t)  # midpoint from x_t = (1 + t w_t) x0
    target = w_t + 0.4 * (slope - w_t)
    expected = 2 * (w_s - target) * data.x0.square().mean()
    torch.testing.assert_close(student.weights.grad[5], expected, rtol=1e-6, atol=0)


def test_the_alignment_has_no_gradient_through_its_target():
    student, guide, data = Table(), Linear(), pair()
    t, s = torch.full((6,), 0.3), torch.full((6,), 0.5)
    trajectory_loss(student, guide, data, t, s=s, distance=SQUARED).alignment.mean().backward()
    w_t = student.weights.detach()[3]
    expected = 0.49 * 2 * (w_t - 0.8 * (1 + 0.3 * w_t)) * data.x0.square().mean()
    torch.testing.assert_close(student.weights.grad[3], expected, rtol=1e-6, atol=0)


def test_descent_arrives_at_the_average_velocity_of_a_linear_field():
    """Each step of length 1/2 sets a weight to its target, so that ten make the whole recursion."""
    student = Table()
    with torch.no_grad():
        student.weights[0] = 0.8
    x0 = torch.ones(10, 1, 1, 1, dtype=torch.float64)
    t = torch.arange(10, dtype=torch.float64) / 10
    for _ in range(10):
        loss = trajectory_loss(student, Linear(), Pair(x0, x0), t, s=t + 0.1, distance=SQUARED).trajectory
        (gradient,) = torch.autograd.grad(loss.sum(), [student.weights])
        student.weights.data -= gradient / 2
    s = t + 0.1
    torch.testing.assert_close(student.weights[1:].detach(), ((0.8 * s).exp() - 1) / s, atol=2e-3, rtol=0)


# the holder


def test_terms_are_weighted_and_named():
    torch.manual_seed(0)
    objective = TrajectoryDistillation(Linear(), align=0.3, boundary=0.7, times=Fixed(0.4), dt=0.1)
    parts = objective(Table(), pair())
    assert set(parts) == {"loss", "trajectory", "alignment", "boundary"}
    expected = parts["trajectory"] + 0.3 * parts["alignment"] + 0.7 * parts["boundary"]
    torch.testing.assert_close(parts["loss"], expected)


@pytest.mark.parametrize(
    ("arguments", "student", "guide"),
    [
        ({}, 3, 3),
        ({"r": None}, 3, 2),
        ({"boundary": 0}, 2, 2),
        ({"align": 0, "boundary": 0, "r": None}, 2, 1),
    ],
    ids=str,
)
def test_a_step_costs_what_its_terms_need(arguments, student, guide):
    velocity, teacher = Table(), Linear()
    parts = TrajectoryDistillation(teacher, **arguments)(velocity, pair())
    assert (velocity.calls, teacher.calls) == (student, guide)
    assert ("alignment" in parts, "boundary" in parts) == (
        "align" not in arguments,
        "boundary" not in arguments,
    )


def test_the_last_steps_end_at_the_largest_time_and_have_a_length():
    objective = TrajectoryDistillation(Linear(), dt=0.05, t_min=0.01, t_max=0.99, form="pinn")
    t, s = objective.steps(20_000)
    assert float(t.min()) >= 0.01 and float(s.max()) == pytest.approx(0.99)
    assert float((s - t).min()) >= 0.05 / 10 - 1e-6 and float((s - t).max()) <= 0.05 + 1e-6
    assert float((s > 0.989).float().mean()) == pytest.approx(0.05, abs=0.01), "as many as would step over it"


def test_the_guide_is_frozen_and_in_eval_mode_and_the_distance_is_used():
    guide = nn.Sequential()
    guide.forward = lambda x, t, cond={}: x * (2 if guide.training else 1)
    objective = TrajectoryDistillation(guide, distance=AbsoluteError(), align=0)
    objective.train()
    assert not list(objective.parameters()) and not objective.state_dict()
    data = pair()
    parts = objective(lambda x, t, cond={}: 0 * x, data)
    torch.testing.assert_close(parts["boundary"], data.x0.abs().mean())


def test_times_and_losses_are_reported():
    seen = []
    objective = TrajectoryDistillation(Linear(), times=Fixed(0.4), dt=0.1)
    objective.observer = lambda t, loss: seen.append((t, loss))
    parts = objective(Table(), pair())
    assert seen[0][0].tolist() == pytest.approx([0.5] * 6)
    torch.testing.assert_close(seen[0][1].mean(), parts["trajectory"].detach())


def test_intervals_that_are_shorter_than_a_step_are_refused():
    with pytest.raises(FlowlitError, match=r"t_min=0\.5, dt=0\.3, t_max=0\.7"):
        TrajectoryDistillation(Linear(), dt=0.3, t_min=0.5, t_max=0.7)


def test_solvers_that_would_integrate_the_student_are_refused():
    knobs = {"fidelity": OneStep(0.0), "realism": OneStep(1.0)}
    objective = TrajectoryDistillation(tiny_unet())
    module = FlowModule(tiny_unet(), objective, solvers=knobs)
    assert not module.trains_flow
    with pytest.raises(FlowlitError, match=r"model.solvers has euler1; expected .*OneStep"):
        FlowModule(tiny_unet(), objective, solvers={**knobs, "euler1": Euler(1)})


def test_boundary_at_another_time():
    data = pair()
    found = boundary_loss(GUIDE.average, GUIDE, data, t_min=0.01, distance=SQUARED)
    t = torch.full((6,), 0.01)
    expected = (GUIDE.average(data.x0, t, data.cond) - GUIDE(data.x0, t, data.cond)).square()
    torch.testing.assert_close(found, expected.flatten(1).mean(1))


# the exact student through its solver


def test_the_knob_goes_from_the_mean_to_a_sample_and_its_error_doubles():
    data = GUIDE.draw(sigma_points(36))
    errors = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        solution = OneStep(t)(GUIDE.average, data.x0, data.cond)
        errors.append(float((solution.x1 - data.x1).square().sum() / len(data.x1)))
        expected = GUIDE.least + float(GUIDE.spread(times(t)).square().sum())
        assert errors[-1] == pytest.approx(expected, rel=1e-12)
    assert errors == sorted(errors) and errors[-1] == pytest.approx(2 * GUIDE.least, rel=1e-12)
    assert errors[0] == pytest.approx(GUIDE.least, rel=1e-12) and solution.x1.shape[1:] == SHAPE


def test_along_the_knob_errors_rise_and_results_become_like_images():
    """PSNR falls, and the distance of the results' law from that of images, to 0."""
    data = GUIDE.draw(sigma_points(36))
    covariance = GUIDE.root @ GUIDE.root.T
    errors = []
    distances = []
    for t in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
        results = OneStep(t)(GUIDE.average, data.x0, data.cond).x1.flatten(1)
        errors.append(float((results - data.x1.flatten(1)).square().mean()))
        law = results.mean(0), torch.cov(results.T, correction=0)
        distances.append(frechet_distance(*law, GUIDE.mean, covariance))
    assert all(a < b for a, b in pairwise(errors)) and all(a > b for a, b in pairwise(distances))
    assert distances[0] > 1 and distances[-1] == pytest.approx(0, abs=1e-6)
