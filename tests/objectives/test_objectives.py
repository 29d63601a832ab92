import copy
from inspect import Parameter, signature

import pytest
import torch
from tools import LinearField, straight
from torch import nn

import flowlit.objectives
from flowlit.errors import FlowlitError
from flowlit.objectives import (
    AnnealedReflow,
    Combined,
    Distillation,
    FlowGuided,
    KStepDistillation,
    RectifiedFlow,
    annealed_reflow_loss,
    flow_guided_loss,
    rectified_flow_loss,
)
from flowlit.objectives.distances import AbsoluteError, SquaredError
from flowlit.objectives.times import Fixed, Uniform
from flowlit.objectives.weights import Remaining
from flowlit.types import Pair

SQUARED = SquaredError()


def pair(seed=0, batch=5):
    x0, x1 = torch.randn(2, batch, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Pair(x0, x1.tanh())


def seeded(objective, velocity, data):
    torch.manual_seed(7)
    return objective(velocity, data)["loss"]


class Record:
    """A velocity that keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, cond={}):
        self.calls.append((x, t, cond))
        return torch.zeros_like(x)


ORDER = ("velocity", "guide", "critic", "pair", "t", "noise")
LOSSES = [name for name in flowlit.objectives.__all__ if name.endswith("_loss")]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_their_arguments_in_one_order_and_their_settings_by_name(name):
    parameters = signature(getattr(flowlit.objectives, name)).parameters.values()
    places = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert {"velocity", "pair"} <= set(places) and places == [n for n in ORDER if n in places]
    assert all(p.kind is Parameter.KEYWORD_ONLY for p in parameters if p.name not in ORDER)


# reflow


def test_rectified_flow_by_hand():
    data, t, velocity = pair(), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]), LinearField()
    expected = []
    for i in range(5):
        x_t = t[i] * data.x1[i] + (1 - t[i]) * data.x0[i]
        v = 0.3 * x_t - 0.2 * t[i] + 0.1
        expected.append(float(((v - (data.x1[i] - data.x0[i])) ** 2).mean()))
    assert rectified_flow_loss(velocity, data, t, distance=SQUARED).tolist() == pytest.approx(
        expected, rel=1e-5
    )


def test_the_true_velocity_has_no_loss():
    x0 = pair().x0
    assert float(RectifiedFlow()(straight, Pair(x0, 3 * x0 + 1))["loss"]) < 1e-10


def test_conditions_and_times_reach_the_velocity():
    velocity, label = Record(), torch.arange(5)
    RectifiedFlow(times=Fixed(0.25))(velocity, pair()._replace(cond={"label": label}))
    x, t, cond = velocity.calls[0]
    assert t.tolist() == [0.25] * 5 and cond["label"] is label
    assert torch.allclose(x, 0.75 * pair().x0 + 0.25 * pair().x1)


def test_weights_multiply_the_loss_of_their_sample():
    data, velocity = pair(), LinearField()
    torch.manual_seed(7)
    t = Uniform()(5)
    expected = ((1 - t) ** 2 * rectified_flow_loss(velocity, data, t, distance=SQUARED)).mean()
    assert torch.allclose(seeded(RectifiedFlow(weight=Remaining()), velocity, data), expected)


def test_distance_is_used():
    data = pair()
    expected = (data.x1 - data.x0).abs().mean()
    assert torch.allclose(RectifiedFlow(distance=AbsoluteError())(Record(), data)["loss"], expected)


def test_annealed_reflow_at_beta_0_is_rectified_flow_bit_for_bit():
    velocity = LinearField()
    assert torch.equal(
        seeded(AnnealedReflow(beta=0.0), velocity, pair()), seeded(RectifiedFlow(), velocity, pair())
    )


def test_annealed_reflow_at_beta_1_does_not_see_the_stored_noise():
    velocity, other = LinearField(), pair()._replace(x0=100 * torch.randn(5, 1, 4, 4))
    objective = AnnealedReflow(beta=1.0)
    assert torch.equal(seeded(objective, velocity, pair()), seeded(objective, velocity, other))
    objective.beta = 0.5
    assert not torch.equal(seeded(objective, velocity, pair()), seeded(objective, velocity, other))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_annealed_reflow_mixes_noise_into_input_and_target(beta):
    data, noise, t = pair(), torch.randn(5, 1, 4, 4), torch.rand(5)
    mixed = (1 - beta**2) ** 0.5 * data.x0 + beta * noise
    velocity = Record()
    loss = annealed_reflow_loss(velocity, data, t, noise, distance=SQUARED, beta=beta)
    t_ = t[:, None, None, None]
    assert torch.allclose(velocity.calls[0][0], (1 - t_) * mixed + t_ * data.x1)
    assert torch.allclose(loss, ((data.x1 - mixed) ** 2).mean((1, 2, 3)))


# distillation


def test_distillation_compares_one_jump_with_the_stored_end():
    data, velocity = pair(), LinearField()
    expected = ((data.x0 + 0.3 * data.x0 + 0.1 - data.x1) ** 2).mean()
    assert torch.allclose(Distillation()(velocity, data)["loss"], expected)


def test_distillation_starts_at_time_0_from_pure_noise():
    velocity, data = Record(), pair()
    Distillation()(velocity, data)
    x, t, _ = velocity.calls[0]
    assert torch.equal(x, data.x0) and t.tolist() == [0.0] * 5


def test_k_step_distillation_visits_the_times_of_k_euler_steps():
    velocity = Record()
    for _ in range(40):
        KStepDistillation(4)(velocity, pair())
    assert torch.cat([t for _, t, _ in velocity.calls]).unique().tolist() == [0.0, 0.25, 0.5, 0.75]
    one, jump = (
        objective(LinearField(), pair())["loss"] for objective in (KStepDistillation(1), Distillation())
    )
    assert torch.allclose(one, jump)


def two_steps(student, guide, x0, t, first_step):
    """The target, one sample and one Euler step after the other."""
    ends = []
    for x, time in zip(x0, t, strict=True):
        x, time, zero = x[None], time[None], torch.zeros(1)
        v0 = (student if first_step == "student" else guide)(x, zero)
        middle = x + time * v0
        ends.append(middle + (1 - time) * guide(middle, time))
    return torch.cat(ends).detach()


@pytest.mark.parametrize("first_step", ["student", "guide"])
def test_flow_guided_gradient_is_that_of_a_regression_onto_a_constant(first_step):
    student, guide = LinearField(), LinearField(-0.5, 0.4, 0.2)
    data, x0, t = pair(1), pair().x0, torch.tensor([0.2, 0.3, 0.5, 0.7, 0.8])
    loss = flow_guided_loss(student, guide, data, t, x0, distance=SQUARED, first_step=first_step).mean()
    loss.backward()
    found = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    target = two_steps(student, guide, x0, t, first_step)
    student.zero_grad()
    expected = ((x0 + student(x0, torch.zeros(5)) - target) ** 2).mean()
    expected.backward()
    assert torch.allclose(loss, expected)
    assert torch.allclose(torch.stack(found), torch.stack([p.grad for p in student.parameters()]))
    assert all(p.grad is None for p in guide.parameters())


@pytest.mark.parametrize(("first_step", "guide_calls"), [("student", 1), ("guide", 2)])
def test_flow_guided_cost(first_step, guide_calls):
    student, guide = LinearField(), LinearField()
    FlowGuided(guide, first_step=first_step)(student, pair())
    assert (student.called, guide.called) == (1, guide_calls)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_flow_guided_target_is_the_end_of_a_straight_flow(t):
    x0, student = pair().x0, LinearField()
    times = torch.full((5,), t)
    loss = flow_guided_loss(student, straight, pair(1), times, x0, distance=SQUARED, first_step="guide")
    assert torch.allclose(
        loss, ((x0 + student(x0, torch.zeros(5)) - (3 * x0 + 1)) ** 2).mean((1, 2, 3)), rtol=1e-5
    )


@pytest.mark.parametrize("first_step", ["student", "guide"])
def test_a_student_that_follows_its_straight_guide_has_no_loss(first_step):
    data, t = pair(), torch.rand(5)
    loss = flow_guided_loss(straight, straight, data, t, data.x0, distance=SQUARED, first_step=first_step)
    assert loss.max() < 1e-9


def test_flow_guided_gives_the_same_condition_to_student_and_guide():
    student, guide, label = Record(), Record(), torch.arange(5)
    data = pair()._replace(cond={"label": label})
    flow_guided_loss(student, guide, data, torch.rand(5), data.x0, distance=SQUARED, first_step="guide")
    assert all(cond["label"] is label for _, _, cond in student.calls + guide.calls)


def test_flow_guided_draws_fresh_noise_and_middle_times():
    student, guide = Record(), nn.Module()
    guide.forward = record = Record()
    objective = FlowGuided(guide)
    for _ in range(200):
        objective(student, pair())
    assert not torch.equal(student.calls[0][0], pair().x0)
    assert not torch.equal(student.calls[0][0], student.calls[1][0])
    times = torch.cat([t for _, t, _ in record.calls])
    assert 0.2 <= times.min() < 0.22 and 0.78 < times.max() < 0.8


def test_the_guide_is_hidden_and_stays_frozen():
    guide = LinearField()
    objective = FlowGuided(guide)
    objective.train()
    assert not guide.training and not any(p.requires_grad for p in guide.parameters())
    assert (
        not objective.state_dict()
        and not list(objective.parameters())
        and len(list(objective.modules())) == 2
    )
    assert copy.deepcopy(objective).guide is objective.guide


def test_flow_guided_refuses_another_first_step():
    with pytest.raises(FlowlitError, match="first_step is 'teacher'; expected 'student' or 'guide'"):
        FlowGuided(LinearField(), first_step="teacher")


# sums


def test_combined_adds_its_parts_with_their_weights():
    objective = Combined({"a": Distillation(), "b": Distillation(AbsoluteError())}, {"b": 0.25})
    parts = objective(LinearField(), pair())
    assert torch.allclose(parts["a"], Distillation()(LinearField(), pair())["loss"])
    assert torch.allclose(parts["loss"], parts["a"] + 0.25 * parts["b"])


def test_combined_refuses_weights_of_nothing():
    with pytest.raises(FlowlitError, match=r"weights for \['c'\], but the objectives are \['a', 'b'\]"):
        Combined({"a": Distillation(), "b": Distillation()}, {"c": 1.0})


def test_combined_passes_on_attach_to_its_parts():
    met = []

    class Curious(Distillation):
        def on_attach(self, module):
            met.append(module)

    module = nn.Linear(1, 1)
    Combined({"a": Curious(), "b": Curious()}).on_attach(module)
    assert met == [module, module]
