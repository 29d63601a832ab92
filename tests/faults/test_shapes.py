"""Tensors of another shape are refused where they enter, and never broadcast; loops over noise end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tools import LinearField

from flowlit.couplings import Cached, SeededNoise
from flowlit.data import ImageFolder, ImageZip
from flowlit.errors import FlowlitError
from flowlit.objectives import Distillation, RectifiedFlow
from flowlit.solvers import RK45, Adams, EDMHeun, Euler
from flowlit.types import Pair

X = torch.zeros(4, 1, 8, 8)


@pytest.mark.parametrize("objective", [RectifiedFlow, Distillation])
@pytest.mark.parametrize(
    "pair",
    [
        Pair(X, X[:1]),
        Pair(X, X.repeat(1, 3, 1, 1)),
        Pair(X, X.long()),
        Pair(X[:0], X[:0]),
        Pair(X, X.numpy()),
        Pair(X, X, {"label": torch.zeros(1)}),
        Pair(X, X, None),
    ],
)
def test_a_pair_is_never_broadcast(objective, pair):
    with pytest.raises(FlowlitError, match=r"of a pair are|condition"):
        objective()(LinearField(), pair)


@pytest.mark.parametrize("solver", [Euler(1), Adams(2), RK45(), EDMHeun(2)])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(
            ({"x0": x0}, "x0 is")
            for x0 in (X.long(), X.bool(), X + 0j, X.numpy(), None, X[:0], X[0, 0, 0, 0])
        ),
        *(({"velocity": velocity}, "velocity is") for velocity in (None, "x")),
        *(({"cond": cond}, "condition") for cond in (None, [1], {"label": 1}, {"label": X[:1]})),
        ({"observe": 3}, "observe is a int"),
        ({"reverse": "yes"}, "reverse is 'yes'"),
    ],
)
def test_a_solver_names_the_argument_that_is_no_tensor(solver, changes, words):
    with pytest.raises(FlowlitError, match=words):
        solver(**{"velocity": LinearField(), "x0": X, **changes})


@pytest.mark.parametrize("solver", [Euler, Adams, EDMHeun])
def test_steps_without_end_are_refused(solver):
    with pytest.raises(FlowlitError, match="1,000,000 at most"):
        solver(2**62)


@pytest.mark.parametrize("value", [3, "x"])
def test_a_grid_is_an_object(value):
    with pytest.raises(FlowlitError, match=r"grid is .*; expected an object of TimeGrid"):
        Euler(2, grid=value)


def test_a_loop_over_noise_ends():
    noise = SeededNoise((1, 8, 8), 4)
    assert [int(row.index) for row in noise] == [0, 1, 2, 3]
    assert [int(noise[i].index) for i in (-1, np.int64(2), torch.tensor(1))] == [3, 2, 1]
    assert noise.batch([9]).index.tolist() == [9], "a batch may go beyond the end"
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            noise[beyond]
    with pytest.raises(FlowlitError, match=r"row is 1\.5"):
        noise[1.5]
    with pytest.raises(FlowlitError, match="shape is"):
        SeededNoise({1, 8}, 4)


@pytest.mark.parametrize("store", ["", []])
def test_pairs_have_a_folder(store):
    with pytest.raises(FlowlitError, match="expected a folder"):
        Cached(store)


def test_paths_are_texts_too():
    assert Cached(Path("x")).store == "x"
    assert ImageFolder(Path("x")).root == "x"
    assert ImageZip(Path("x.zip")).paths == ImageZip([Path("x.zip")]).paths == ["x.zip"]
