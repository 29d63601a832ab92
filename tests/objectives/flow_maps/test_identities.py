"""Losses of flow maps at the closed-form map of a Gaussian: nothing at the truth, much at a wrong sign."""

from functools import partial

import pytest
import torch
from gaussian_map import GaussianMap, intervals
from tools import randomise, tiny_unet

from flowlit.errors import FlowlitError
from flowlit.objectives import flow_guided_loss, rectified_flow_loss
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.flow_maps import (
    consistency_loss,
    end_derivative,
    guided_target,
    lagrangian_loss,
    mean_flow_loss,
    own_guided_target,
    splitting_loss,
    start_derivative,
    velocity_distillation_loss,
)
from flowlit.objectives.flow_maps.base import adaptive
from flowlit.paths import expand, interpolate
from flowlit.types import Pair

SQUARED = SquaredError()
GUIDE = GaussianMap()
T, S = intervals(16)
DATA = GUIDE.pair(16)


def mean_flow(velocity, guide=GUIDE, **changes):
    return mean_flow_loss(velocity, guide, DATA, T, S, distance=SQUARED, **changes)


def lagrangian(velocity, guide=GUIDE, **changes):
    return lagrangian_loss(velocity, guide, DATA, T, S, distance=SQUARED, **changes)


def splitting(velocity, **changes):
    return splitting_loss(velocity, None, DATA, T, S, m=T + 0.3 * (S - T), distance=SQUARED, **changes)


def to_data(velocity):
    return mean_flow_loss(velocity, GUIDE, DATA, T, torch.ones_like(T), distance=SQUARED)


def implied(velocity):
    noise = torch.randn(DATA.x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return velocity_distillation_loss(velocity, GUIDE, DATA, 0.9 * T, noise, distance=SQUARED, step=1e-6)


EXACT = {
    "mean flow": mean_flow,
    "mean flow, own tangent": partial(mean_flow, tangent="self"),
    "to data": to_data,
    "lagrangian": lagrangian,
    "lagrangian, own": partial(lagrangian, guide=None),
    "splitting": splitting,
}


@pytest.mark.parametrize("name", EXACT)
def test_the_true_map_has_no_loss_and_the_other_sign_much(name):
    assert float(EXACT[name](GaussianMap()).max()) < 1e-20
    if name not in ("splitting", "lagrangian, own"):  # identities of any field with itself
        assert float(EXACT[name](GaussianMap(sign=-1.0)).mean()) > 0.1


def test_a_wrong_sign_in_the_identity_is_no_identity():
    assert float(mean_flow(GaussianMap(), share=-1.0).mean()) > 0.1
    x_t = interpolate(DATA.x0, DATA.x1, T)
    u, w = end_derivative(GUIDE, x_t, T, S)
    span = expand(S - T, x_t)
    v = GUIDE(x_t + span * u, S)
    assert float((u + span * w - v).abs().max()) < 1e-10 and float(((u - span * w - v) ** 2).mean()) > 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "flowlit.objectives.flow_maps.splitting.jump", lambda x, u, t, s: x - expand(s - t, x) * u
        )
        assert float(splitting(GaussianMap()).mean()) > 0.01


def test_differences_are_exact_to_their_order():
    """A central one of second order, inside; all of first order at the ends."""
    central = mean_flow(GaussianMap(), derivative="central").detach()
    assert float(central[2:].max()) < 1e-7 and float(central.max()) < 1e-3
    for loss in (mean_flow, lagrangian):
        for derivative in ("central", "forward"):
            assert float(loss(GaussianMap(), derivative=derivative, step=1e-4).max()) < 1e-5
    assert float(implied(GaussianMap()).max()) < 1e-7


@pytest.mark.parametrize("derivative", ["jvp", "central", "forward"])
def test_derivatives_at_the_ends_stay_inside(derivative):
    """A velocity that would not take a time outside of [0, 1], or an end before its start."""

    def bounded(x, t, cond):
        r = cond["r"]
        assert derivative == "jvp" or (float(t.min()) >= 0 and float(torch.cat([t, r]).max()) <= 1)
        return GUIDE(x, t, cond)

    x = DATA.x0[:3]
    ones, zeros = torch.ones(3, dtype=x.dtype), torch.zeros(3, dtype=x.dtype)
    for t, s in ((zeros, zeros), (zeros, ones), (ones, ones), (1 - 1e-9 * ones, ones)):
        u = GUIDE(x, t, {"r": s})
        slope = start_derivative(bounded, x, t, s, u, u=u, derivative=derivative, step=1e-3)
        average, end = end_derivative(bounded, x, t, s, derivative=derivative, step=1e-3)
        assert torch.isfinite(slope).all() and torch.isfinite(end).all() and torch.equal(average, u)


def test_the_start_derivative_is_the_slope_along_the_path():
    x_t = interpolate(DATA.x0, DATA.x1, T)
    v = DATA.x1 - DATA.x0
    slope = start_derivative(GUIDE, x_t, T, S, v, u=x_t)
    step = 1e-5
    ahead, behind = (GUIDE(x_t + sign * step * v, T + sign * step, {"r": S}) for sign in (1, -1))
    inside = torch.minimum(T, S - T) > step
    torch.testing.assert_close(slope[inside], ((ahead - behind) / (2 * step))[inside], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("derivative", ["jvp", "central", "forward"])
def test_derivatives_are_not_rounded_by_autocast(derivative):
    network = randomise(tiny_unet(second_time=True))
    x, v = torch.randn(2, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t, s = T.float(), S.float()

    def both():
        u = network(x, t, {"r": s})
        start = start_derivative(network, x, t, s, v, u=u, derivative=derivative)
        return u, start, end_derivative(network, x, t, s, derivative=derivative)[1]

    exact = both()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = both()
    assert not torch.equal(rounded[0], exact[0])
    assert torch.equal(rounded[1], exact[1]) and torch.equal(rounded[2], exact[2])


@pytest.mark.parametrize(
    "loss",
    [mean_flow_loss, partial(splitting_loss, m=T), lagrangian_loss, partial(mean_flow_loss, tangent="self")],
    ids=["mean flow", "splitting", "lagrangian", "own tangent"],
)
def test_where_the_interval_is_empty_it_is_rectified_flow(loss):
    expected = rectified_flow_loss(GUIDE, DATA, T, distance=SQUARED)
    assert torch.equal(loss(GUIDE, None, DATA, T, T, distance=SQUARED), expected)


def test_flow_guided_distillation_is_splitting_from_end_to_end():
    student = GaussianMap(sign=0.7)
    zeros, ones = torch.zeros_like(T), torch.ones_like(T)

    def one_time(x, t, cond):
        return student(x, zeros, {"r": ones})

    expected = flow_guided_loss(one_time, GUIDE, DATA, T, DATA.x0, distance=SQUARED, first_step="guide")
    loss = splitting_loss(
        student, GUIDE, DATA, zeros, ones, m=T, distance=SQUARED, first="guide", second="guide"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)


# limits


def gradient(loss, student):
    student.theta.grad = None
    loss.mean().backward()
    return float(student.theta.grad)


def test_consistency_is_mean_flow_to_the_data_with_its_gradient_times_what_remains():
    for t in (0.2, 0.6, 0.9):
        student = GaussianMap()
        with torch.no_grad():
            student.theta += 0.2
        at = torch.full_like(T, t)
        ones = torch.ones_like(T)
        later = at + 1e-5
        near = consistency_loss(student, GUIDE, DATA, at, later, distance=SQUARED) / 1e-5
        flow = mean_flow_loss(student, GUIDE, DATA, at, ones, distance=SQUARED)
        assert gradient(near, student) == pytest.approx((1 - t) * gradient(flow, student), rel=1e-3)


def test_consistency_at_the_true_map_vanishes_with_the_error_of_the_guides_step():
    def error(step):
        t = 0.1 + 0.7 * T
        return float(consistency_loss(GUIDE, GUIDE, DATA, t, t + step, distance=SQUARED).mean().sqrt())

    assert error(0.01) / error(0.02) == pytest.approx(0.25, abs=0.05)
    last = consistency_loss(GUIDE, None, DATA, T, torch.ones_like(T), distance=SQUARED)
    u = GUIDE(interpolate(DATA.x0, DATA.x1, T), T, {"r": torch.ones_like(T)})
    end = interpolate(DATA.x0, DATA.x1, T) + expand(1 - T, u) * u
    torch.testing.assert_close(last, SQUARED(end, DATA.x1))


def test_alpha_flow_becomes_mean_flow():
    """The difference from the target, divided by α, is that of MeanFlow up to O(α)."""

    class Difference(SquaredError):
        def forward(self, a, b):
            self.difference = a - b
            return super().forward(a, b)

    def difference(loss, **changes):
        distance = Difference()
        loss(GaussianMap(sign=0.8), None, DATA, T, S, distance=distance, **changes)
        return distance.difference

    expected = difference(mean_flow_loss)
    errors = [
        float((difference(splitting_loss, m=T + a * (S - T), first="data") / a - expected).abs().max())
        for a in (1e-2, 1e-3)
    ]
    assert errors[0] < 0.2 * float(expected.abs().max()) and errors[1] < 0.15 * errors[0]


def test_improved_mean_flow_has_the_gradient_of_mean_flow_for_an_equal_tangent():
    student = GaussianMap()
    with torch.no_grad():
        student.theta += 0.1
    x_t = interpolate(DATA.x0, DATA.x1, T)
    v = student(x_t, T).detach()
    own = mean_flow_loss(student, None, DATA, T, S, distance=SQUARED, v=v, tangent="self")
    theirs = mean_flow_loss(student, None, DATA, T, S, distance=SQUARED, v=v)
    assert gradient(own, student) == pytest.approx(gradient(theirs, student), rel=1e-12)


def test_velocity_distillation_moves_samples_by_the_difference_of_velocities():
    """Its gradient is 2 r ∂u, with the r that it computes: also as a number."""
    student = GaussianMap()
    with torch.no_grad():
        student.theta += 0.3
    noise = torch.randn(DATA.x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = 0.9 * T
    loss = velocity_distillation_loss(student, GUIDE, DATA, t, noise, distance=SQUARED)
    zeros, ones = torch.zeros_like(t), torch.ones_like(t)
    with torch.no_grad():
        u = student(DATA.x0, zeros, {"r": ones})
        x_t = interpolate(noise, DATA.x0 + u, t)
        v = GUIDE(x_t, t)
        phi = student(x_t, t, {"r": ones})
        later = student(x_t + 0.01 * v, t + 0.01, {"r": ones})
        r = phi - v - expand(1 - t, v) * (later - phi) / 0.01
        by_theta = u / 1.3
    expected = float((2 * r * by_theta).mean())
    assert gradient(loss, student) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(loss.detach(), SQUARED(r, torch.zeros_like(r)))


# data instead of a guide


def halved(student, guide, pair, t, s, *, distance, **changes):
    """Shortcut models' loss, whose interval ends in the middle for its first leg."""
    return splitting_loss(student, guide, pair, t, s, m=(t + s) / 2, distance=distance, **changes)


@pytest.mark.parametrize(
    "loss",
    [mean_flow_loss, partial(mean_flow_loss, tangent="self"), lagrangian_loss, halved],
    ids=["mean flow", "own tangent", "lagrangian", "splitting"],
)
def test_data_have_the_true_map_as_their_minimum(loss):
    student = GaussianMap()
    t, s = intervals(20_000)
    s = torch.where(torch.arange(len(s)) % 2 == 0, t, s)
    errors = loss(student, None, student.pair(20_000), t, s, distance=SQUARED)
    grads = torch.stack(
        [torch.autograd.grad(e.mean(), student.theta, retain_graph=True)[0] for e in errors.chunk(20)]
    )
    assert float(grads.mean().abs() / (grads.std() / 20**0.5)) < 4 and float(grads.std()) > 0


def test_an_adaptive_weight_moves_the_minimum_from_the_mean_of_skewed_targets():
    draw = torch.Generator().manual_seed(0)
    target = -torch.rand(100_000, generator=draw, dtype=torch.float64).log()  # of mean 1
    for p, low, high in ((0.0, -0.02, 0.02), (1.0, 0.5, 9.0)):
        u = torch.ones((), dtype=torch.float64, requires_grad=True)
        adaptive((u - target) ** 2, 1, p, 1e-3).mean().backward()
        assert low < float(u.grad) < high


def test_the_adaptive_weight_is_mean_flows_up_to_a_factor():
    error = torch.tensor([1e-4, 0.3, 7.0], requires_grad=True)
    for p in (0.5, 0.75, 1.0):
        loss = adaptive(error, 64, p, 1e-2)
        theirs = (64 * error) / (64 * error.detach() + 1e-2) ** p
        torch.testing.assert_close(loss * 64 ** (1 - p), theirs)
    assert adaptive(error, 64, 0.0, 1e-2) is error


# where gradients go


def distilled(student, guide, pair, t, s, *, distance):
    noise = torch.randn(pair.x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return velocity_distillation_loss(student, guide, pair, 0.9 * t, noise, distance=distance)


def guided(student, guide, pair, t, s, *, distance):
    label = torch.zeros(len(t), dtype=torch.int64)
    pair = pair._replace(cond={"label": label})
    v = guided_target(student, pair, t, guidance=2.0, kappa=0.5)
    return mean_flow_loss(student, guide, pair, t, s, distance=distance, v=v)


def improved(student, guide, pair, t, s, *, distance):
    label = torch.zeros(len(t), dtype=torch.int64)
    guidance = torch.tensor([2.0, 0.0, 1.0]).expand(len(t), 3)
    pair = pair._replace(cond={"label": label, "guidance": guidance})
    v = own_guided_target(student, pair, t)
    return mean_flow_loss(student, guide, pair, t, s, distance=distance, v=v, tangent="self")


WITH_TARGET = {
    "mean flow": mean_flow_loss,
    "own tangent": partial(mean_flow_loss, tangent="self"),
    "difference": partial(mean_flow_loss, derivative="forward"),
    "guided": guided,
    "improved": improved,
    "lagrangian": lagrangian_loss,
    "consistency": consistency_loss,
    "splitting": partial(splitting_loss, m=(T + S) / 2, first="guide", second="self"),
    "velocity distillation": distilled,
}


@pytest.mark.parametrize("loss", WITH_TARGET.values(), ids=WITH_TARGET)
def test_no_gradient_reaches_the_guide_or_the_target(loss):
    """The gradient is that of the same loss with every other number held still."""
    guide, student = GaussianMap(), GaussianMap()
    with torch.no_grad():
        student.theta += 0.2
    total = loss(student, guide, DATA, T, S, distance=SQUARED).mean()
    total.backward()
    assert guide.theta.grad is None
    outputs = []

    class Held(SquaredError):
        def forward(self, a, b):
            outputs.append((a, b))
            return super().forward(a, b)

    loss(student, guide, DATA, T, S, distance=Held())
    ((prediction, target),) = outputs
    assert prediction.requires_grad and not target.requires_grad


def test_a_leg_of_a_guide_that_is_not_there_is_refused():
    with pytest.raises(FlowlitError, match="no guide"):
        splitting_loss(GUIDE, None, DATA, T, S, m=S, distance=SQUARED, first="guide")


def test_short_legs_are_steps_of_the_velocity():
    student = GaussianMap(sign=0.8)
    m = (T + S) / 2
    long = splitting_loss(student, None, DATA, T, S, m=m, distance=SQUARED)
    short = splitting_loss(student, None, DATA, T, S, m=m, distance=SQUARED, shortest=1.0)
    x_t = interpolate(DATA.x0, DATA.x1, T)
    u1 = student(x_t, T)
    x_m = x_t + expand(m - T, x_t) * u1
    expected = SQUARED(student(x_t, T, {"r": S}), (u1 + student(x_m, m)) / 2)
    torch.testing.assert_close(short, expected)
    assert not torch.allclose(long, short)
    clipped = splitting_loss(student, None, DATA, T, S, m=m, distance=SQUARED, clip=1e-9)
    torch.testing.assert_close(
        clipped, SQUARED(student(x_t, T, {"r": S}), torch.zeros_like(x_t)), atol=1e-6, rtol=0
    )


def test_from_noise_no_image_is_looked_at():
    zeros = torch.zeros_like(T)
    blind = Pair(DATA.x0, torch.zeros_like(DATA.x1))
    for loss in (lagrangian_loss, mean_flow_loss, partial(splitting_loss, m=S / 2, second="guide")):
        values = [
            loss(GaussianMap(sign=0.9), GUIDE, pair, zeros, S, distance=SQUARED) for pair in (DATA, blind)
        ]
        assert torch.equal(*values)
