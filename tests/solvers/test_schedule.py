"""Schedules whose evaluations leave blocks of the network out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from tools import randomise, tiny_unet

from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export.program import Program, example, traced
from flowlit.networks import ClassifierFreeGuidance, Pruned
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.solvers import SolverSchedule
from flowlit.types import Solver

TIMES = [0.0, 0.3, 0.6, 1.0]
SKIPPED = [["bottleneck.0"], [], ["bottleneck.1", "decoder.1"]]
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COND = {"label": torch.tensor([0, 2, 1])}


def network():
    return randomise(tiny_unet(num_classes=3, label_dropout=0.1), 1, scale=0.2).eval()


def schedule(**decisions):
    return SolverSchedule(TIMES, 2, "velocity", correctors=True, **decisions)


@pytest.mark.parametrize("reverse", [False, True])
@torch.no_grad()
def test_each_evaluation_is_that_of_the_network_without_its_blocks(reverse):
    whole = network()
    pruned = [Pruned(deepcopy(whole), names) for names in SKIPPED]
    places = dict(zip(TIMES[1:] if reverse else TIMES[:-1], pruned, strict=True))

    def by_hand(x, t, cond={}):
        return places[min(places, key=lambda place: abs(place - float(t[0])))](x, t, cond)

    ours = schedule(skipped=SKIPPED)(whole, X, COND, reverse=reverse)
    expected = schedule()(by_hand, X, COND, reverse=reverse)
    assert torch.equal(ours.x1, expected.x1) and ours.nfe.tolist() == [3] * 3
    assert not torch.allclose(ours.x1, schedule()(whole, X, COND, reverse=reverse).x1, atol=1e-4)


@torch.no_grad()
def test_generators_and_guided_ones_leave_them_out_too():
    whole = network()
    solver = schedule(skipped=SKIPPED)
    expected = solver(ClassifierFreeGuidance(whole, 2.0), X, COND)
    found = Generator(ClassifierFreeGuidance(whole, 2.0), solver, Pixels()).solve(X, COND)
    assert torch.allclose(found.x1, expected.x1, atol=1e-5) and found.nfe.tolist() == [6] * 3


@pytest.mark.slow
@torch.no_grad()
def test_exports_leave_them_out_too():
    plain = Generator(network(), schedule(skipped=SKIPPED), Pixels())
    assert len(example(plain)) == 2
    x1 = traced(plain).module()(X, COND["label"])[1]
    assert torch.allclose(x1, plain.solve(X, COND).x1, atol=1e-4)
    assert torch.allclose(Program(plain)(X, COND["label"])[1], x1, atol=1e-4)


def test_they_are_part_of_its_description_and_absent_where_there_are_none():
    solver = schedule(skipped=SKIPPED)
    assert build(spec(solver), Solver) == solver and "skipped" not in str(spec(schedule()))


@pytest.mark.parametrize(
    ("skipped", "velocity", "expected"),
    [
        (SKIPPED[:2], None, "skipped has 2 entries for 3 steps; expected one for each"),
        ("bottleneck.0", None, "skipped"),
        ([["nothing"], [], []], network(), "UNet: 'nothing' cannot be left out"),
        (SKIPPED, lambda x, t, cond={}: -x, "function cannot leave blocks out"),
    ],
)
def test_what_cannot_be_left_out_is_refused(skipped, velocity, expected):
    with pytest.raises(FlowlitError, match=expected):
        schedule(skipped=skipped)(velocity, X, COND)
