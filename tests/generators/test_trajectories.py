"""States on the way from noise to an image."""

import pytest
import torch
from matrix import few
from tools import LinearField, randomise, tiny_unet

from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.sampling import rows_to_sample
from flowlit.generators.trajectories import StatesOverTime, trajectories
from flowlit.solvers import RK45, SDE, Adams, EDMHeun, Euler, Heun, OneStep


class States(Pixels):
    """States as they are."""

    def decode(self, x1):
        return x1


def of(solver, codec=None):
    network = randomise(tiny_unet(num_classes=3), 1).eval()
    return Generator(network, solver, codec or Pixels())


@pytest.mark.parametrize(
    "solver",
    few([Euler(1), OneStep(0.5), SDE(2), Heun(2), Adams(2), EDMHeun(2), RK45(0.3, 0.3)], 3),
    ids=repr,
)
def test_a_way_begins_at_noise_and_ends_at_the_image(solver):
    generator = of(solver)
    rows = rows_to_sample(generator, None, 0, None, None, [4, 5])
    states = trajectories(generator, rows, 4)
    assert states.shape == (2, 4, 1, 8, 8) and states.dtype == torch.uint8
    assert torch.equal(states[:, -1], generator.sample(seeds=[4, 5]))
    assert torch.equal(states[:, 0], Pixels().decode(generator.noise([4, 5])))


def test_a_generator_has_the_ways_of_seeds():
    generator = of(Heun(2))
    ways = generator.trajectory([4, 5], steps=3, labels=[2, 0])
    assert ways.shape == (2, 3, 1, 8, 8)
    assert torch.equal(ways[:, -1], generator.sample(seeds=[4, 5], labels=[2, 0]))
    assert torch.equal(ways[:, 0], Pixels().decode(generator.noise([4, 5])))
    assert torch.equal(generator.trajectory(5, 3, 0), ways[1:])
    with pytest.raises(FlowlitError, match="steps is 1"):
        generator.trajectory([4], steps=1)


def test_states_are_those_of_the_solver_and_straight_between():
    field = LinearField()
    rows = rows_to_sample(Generator(field, Euler(1), States(), (1, 8, 8)), 1, 3, None, None, None)
    fine = trajectories(Generator(field, Euler(4), States(), (1, 8, 8)), rows, 9)[0]
    expected = []
    Euler(4)(field, rows.batch(range(1)).x0, observe=lambda t, x, v: expected.append(x))
    torch.testing.assert_close(fine[:8:2], torch.cat(expected))
    torch.testing.assert_close(fine[1::2], (fine[:-1:2] + fine[2::2]) / 2)


def test_steps_that_jump_over_several_times_keep_them_all():
    observer = StatesOverTime(torch.zeros(1, 1, 1, 1), [0.0, 0.25, 0.5, 0.75, 1.0])
    observer(torch.zeros(1), torch.zeros(1, 1, 1, 1), None)
    observer(torch.tensor([0.8]), torch.full((1, 1, 1, 1), 0.8), None)
    observer.reach(1.0, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(torch.cat(observer.states).flatten(), torch.tensor([0, 0.25, 0.5, 0.75, 1]))
