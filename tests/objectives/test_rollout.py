"""Samples of generators of several steps: which step gets gradients, and that sampling takes the same."""

from itertools import pairwise

import pytest
import tiny
import torch
from torch import nn

from flowlit import rng
from flowlit.errors import FlowlitError
from flowlit.modules.rollouts import fitting, takes_steps
from flowlit.objectives import CombinedGame, Distillation, Rollout, SampleObjective
from flowlit.objectives.score_distillation import DMD, ReverseKL, SiD
from flowlit.paths.straight import endpoint, interpolate
from flowlit.solvers import RK2, RK45, Euler, ReNoise
from flowlit.solvers.grids import Given
from flowlit.types import Pair

TIMES = [0.0, 0.2, 0.3, 0.7, 1.0]


class Steps(nn.Module):
    """A velocity with a weight of its own at each of some times, whose gradients tell the steps apart."""

    def __init__(self, times):
        super().__init__()
        self.times = torch.tensor(times, dtype=torch.float64)
        self.scale = nn.Parameter(torch.linspace(0.4, 0.9, len(times), dtype=torch.float64))

    def forward(self, x, t, cond={}):
        place = (t[:, None].double() - self.times).abs().argmin(1)
        assert torch.allclose(self.times[place], t.double())  # solvers have them in float32
        scale, time = (value[place].reshape(-1, 1, 1, 1) for value in (self.scale, self.times))
        return torch.sin(scale * x) + time


def pair(rows=64):
    torch.manual_seed(1)
    return Pair(*torch.randn(2, rows, 1, 2, 2, dtype=torch.float64))


def rolled(rollout, generator=None, rows=64, steps=None):
    batch = pair(rows)
    torch.manual_seed(3)
    return rollout(generator or Steps(rollout.times), batch, steps)


@pytest.mark.parametrize("renoise", ["fresh", "fixed", "ode"])
@pytest.mark.parametrize("times", [None, TIMES])
def test_gradients_reach_the_step_of_a_row_alone(renoise, times):
    """Although every later step follows from the weights of those before."""
    rollout = Rollout(4, renoise, times)
    generator = Steps(rollout.times)
    samples = rolled(rollout, generator)
    assert set(samples.step.tolist()) == {0, 1, 2, 3}
    for row, step in enumerate(samples.step[:12].tolist()):
        (gradient,) = torch.autograd.grad(samples.x[row].sum(), generator.scale, retain_graph=True)
        assert gradient.nonzero().flatten().tolist() == [step]
    expected = torch.tensor(rollout.times, dtype=torch.float64)
    assert torch.equal(samples.since, expected[samples.step])
    assert torch.equal(samples.until, expected[samples.step + 1])
    assert not samples.start.requires_grad


@pytest.mark.parametrize("times", [None, TIMES])
def test_the_last_step_by_ode_is_eulers_end(times):
    rollout = Rollout(4, "ode", times)
    generator = Steps(rollout.times)
    samples = rolled(rollout, generator)
    solver = Euler(4, grid=times and Given(times))
    ends = solver(generator, pair().x0).x1
    last = samples.step == 3
    assert last.any()
    torch.testing.assert_close(samples.x[last], ends[last], rtol=0, atol=1e-12)
    first = samples.step == 0
    torch.testing.assert_close(samples.x[first], Euler(1)(generator, pair().x0).x1[first])


@pytest.mark.parametrize("times", [None, TIMES])
def test_the_last_step_with_fixed_noise_is_that_of_the_solver(times):
    rollout = Rollout(4, "fixed", times)
    generator = Steps(rollout.times)
    samples = rolled(rollout, generator, steps=[3])
    solver = ReNoise(4, fresh=False, grid=times and Given(times))
    torch.testing.assert_close(samples.x, solver(generator, pair().x0).x1, rtol=0, atol=1e-12)


def test_fresh_noise_is_drawn_for_each_step():
    """As ``ReNoise`` goes on, whose noise is of another stream."""
    rollout = Rollout(4, "fresh", TIMES)
    generator = Steps(TIMES)
    samples = rolled(rollout, generator, steps=[3])
    x = pair().x0
    torch.manual_seed(3)
    for now, then in pairwise(TIMES[:-1]):
        t = torch.full((64,), now, dtype=torch.float64)
        sample = endpoint(x, generator(x, t), t)
        x = interpolate(rng.randn_like(x), sample, torch.full_like(t, then))
    t = torch.full((64,), TIMES[-2], dtype=torch.float64)
    torch.testing.assert_close(samples.x, endpoint(x, generator(x, t), t), rtol=0, atol=1e-12)


def test_steps_are_drawn_uniformly_and_only_among_those_wanted():
    counts = rolled(Rollout(4), rows=4000).step.bincount(minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.03)
    assert set(rolled(Rollout(4), rows=100, steps=[1, 3]).step.tolist()) == {1, 3}


def test_rows_of_a_share_have_the_steps_and_noise_of_the_whole_batch():
    """So that any number of devices trains alike."""
    whole = pair(8)

    def roll(part, share):
        rng.begin(share)
        try:
            return Rollout(3)(Steps(Rollout(3).times), part)
        finally:
            rng.begin(None)

    every = roll(whole, rng.Share(7, 8, 8))
    for first in (0, 1):
        part = roll(Pair(*(value[first::2] for value in whole[:2])), rng.Share(7, 8, 4, first, 2))
        assert torch.equal(part.step, every.step[first::2])
        assert torch.equal(part.x, every.x[first::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("renoise", ["fresh", "fixed", "ode"])
def test_one_step_is_today_s_to_the_bit(renoise, dtype):
    """Neither arithmetic nor random draws differ from a plain step."""
    torch.manual_seed(0)
    generator = tiny.Affine()
    batch = Pair(*torch.randn(2, 6, *tiny.SHAPE))
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        samples = Rollout(1, renoise)(generator, batch)
        expected = batch.x0 + generator(batch.x0, torch.zeros(6))
    assert torch.equal(samples.x, expected)
    following = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(following, torch.rand(3))


@pytest.mark.parametrize("kind", [DMD, SiD])
def test_a_roll_out_of_one_step_is_none(kind):
    torch.manual_seed(0)
    generator, critic, guide = (tiny.Affine() for _ in range(3))
    batch = Pair(*torch.randn(2, 6, *tiny.SHAPE))
    found = []
    for rollout in (None, Rollout(1), Rollout(1, "ode")):
        for objective in (kind(guide, rollout=rollout), CombinedGame({"a": kind(guide)}, rollout=rollout)):
            torch.manual_seed(5)
            loss = objective.student_loss(generator, critic, batch)["loss"]
            gradients = torch.autograd.grad(loss, generator.mix.weight)[0]
            found.append(
                (float(loss), float(objective.critic_loss(generator, critic, batch)["loss"]), gradients)
            )
    assert all(one[:2] == found[0][:2] and torch.equal(one[2], found[0][2]) for one in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0; expected a whole number > 0"),
        ({"k": 2, "renoise": "new"}, "renoise"),
        ({"k": 2, "times": [0.0, 1.0]}, "expected 3 for k=2, increasing from 0 to 1"),
        ({"k": 2, "times": [0.0, 0.5, 0.9]}, "increasing from 0 to 1"),
        ({"k": 2, "times": [0.1, 0.5, 1.0]}, "increasing from 0 to 1"),
        ({"k": 2, "times": [0.0, 1.0, 1.0]}, "increasing from 0 to 1"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(FlowlitError, match=message):
        Rollout(**arguments)


# -- solvers


SOLVERS = {
    Rollout(1): [Euler(1), ReNoise(1), ReNoise(1, fresh=False)],
    Rollout(4, "ode"): [Euler(4), Euler(4, grid=Given([0, 0.25, 0.5, 0.75, 1]))],
    Rollout(4): [ReNoise(4)],
    Rollout(4, "fixed"): [ReNoise(4, fresh=False)],
    Rollout(4, "fresh", TIMES): [ReNoise(4, grid=Given(TIMES))],
    Rollout(2): [ReNoise(2)],
}


@pytest.mark.parametrize("rollout", SOLVERS)
def test_only_solvers_of_the_same_steps_fit(rollout):
    every = [RK45(), RK2(1), RK2(4), *(solver for fits in SOLVERS.values() for solver in fits)]
    assert [solver for solver in every if takes_steps(solver, rollout)] == SOLVERS[rollout]


def test_the_solver_that_fits_is_written_as_yaml():
    assert fitting(Rollout(1)) == "{euler1: {class_path: flowlit.solvers.Euler, init_args: {steps: 1}}}"
    fixed = fitting(Rollout(2, "fixed", [0, 0.3, 1]))
    assert "ReNoise, init_args: {steps: 2, fresh: false, grid: {class_path" in fixed
    assert "times: [0, 0.3, 1]" in fixed


# -- several objectives, and the steps that they act on


class Mean(SampleObjective):
    """Draws samples to their mean, and the critic's shift to the mean of the samples."""

    def sample_loss(self, x, critic, pair):
        return {"loss": x.mean()}

    def critic_sample_loss(self, x, critic, pair):
        return {"loss": x.mean() * critic.scale[0]}


def test_an_objective_acts_on_its_steps_alone():
    rollout = Rollout(4, "ode", TIMES)
    generator = Steps(TIMES)
    game = CombinedGame(
        {"early": Mean(), "late": Mean()}, rollout=rollout, steps={"early": [0, 1], "late": [3]}
    )
    torch.manual_seed(3)
    losses = game.student_loss(generator, Steps(TIMES), pair())
    for name, steps in game.steps.items():
        (gradient,) = torch.autograd.grad(losses[name], generator.scale, retain_graph=True)
        assert gradient.nonzero().flatten().tolist() == steps
    (whole,) = torch.autograd.grad(losses["loss"], generator.scale)
    assert whole.nonzero().flatten().tolist() == [0, 1, 3]


def test_the_gradients_of_steps_add_up():
    """To those without steps, for any objective that is a sum over rows."""
    rollout = Rollout(3, "fixed")
    generator, critic, guide = Steps(rollout.times), *(tiny.Affine().double() for _ in range(2))
    gradients = []
    for steps in [None, {"kl": [0]}, {"kl": [1]}, {"kl": [2]}]:
        torch.manual_seed(3)
        batch = Pair(*torch.randn(2, 9, *tiny.SHAPE, dtype=torch.float64))
        game = CombinedGame({"kl": ReverseKL(guide)}, rollout=rollout, steps=steps)
        loss = game.student_loss(generator, critic, batch)["loss"]
        gradients.append(torch.autograd.grad(loss, generator.scale)[0])
    torch.testing.assert_close(gradients[0], sum(gradients[1:]))


class Recorded(Mean):
    """Stores which steps' samples it was given."""

    def critic_rolled_loss(self, rolled, critic, pair):
        self.seen = rolled
        return super().critic_rolled_loss(rolled, critic, pair)


def test_the_critic_learns_from_the_steps_of_each_objective():
    """Objectives of the same steps share samples."""
    parts = {name: Recorded() for name in ("early", "too", "late", "every")}
    steps = {"early": [0, 1], "too": [0, 1], "late": [3]}
    game = CombinedGame(parts, rollout=Rollout(4), steps=steps)
    critic = Steps(TIMES)
    losses = game.critic_loss(Steps(Rollout(4).times), critic, pair())
    assert torch.autograd.grad(losses["loss"], critic.scale)[0][0] != 0
    seen = {name: set(part.seen.step.tolist()) for name, part in parts.items()}
    assert seen == {"early": {0, 1}, "too": {0, 1}, "late": {3}, "every": {0, 1, 2, 3}}
    assert parts["early"].seen is parts["too"].seen


def test_the_roll_out_of_a_part_is_that_of_all():
    rollout = Rollout(4, "ode")
    guide = tiny.Affine()
    assert CombinedGame({"a": DMD(guide, rollout), "b": Mean()}).rollout == rollout
    assert CombinedGame({"a": DMD(guide, rollout)}, rollout=Rollout(4, "ode")).rollout == rollout
    with pytest.raises(FlowlitError, match=r"CombinedGame: found the roll-outs .* expected one"):
        CombinedGame({"a": DMD(guide, rollout), "b": DMD(guide, Rollout(4))})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"b": [0]}, "steps for b; expected an objective of samples, one of ['a']"),
        ({"regression": [0]}, "steps for regression; expected an objective of samples"),
        (
            {"a": [0, 4]},
            "steps of a are [0, 4]; expected different ones from 0 to 3, since the roll-out has k=4",
        ),
        ({"a": []}, "steps of a are []"),
        ({"a": [1, 1]}, "steps of a are [1, 1]"),
        ({"a": [-1]}, "a whole number >= 0"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps, message):
    with pytest.raises(FlowlitError) as caught:
        CombinedGame({"a": Mean(), "regression": Distillation()}, rollout=Rollout(4), steps=steps)
    assert message in str(caught.value)
