"""Searched schedules: their space, three strategies, and what they find where the exact flow is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from exact_flows import curved, start
from gaussians import gaussian
from mixtures import SMOOTH, rmse

from flowlit.errors import FlowlitError
from flowlit.solvers import DEIS, RK4, Adams, DPMSolver, Euler, SolverSchedule, UniPC
from flowlit.solvers.grids import Shifted, time_grid
from flowlit.solvers.search import DynamicProgramming, Evolution, Staged
from flowlit.solvers.search.base import Problem, Record, best, search
from flowlit.solvers.search.blocks import Blocks, leaving_out
from flowlit.solvers.search.candidate import FORMS, PREDICTIONS, Candidate, Choice, Space, alike, known
from flowlit.solvers.search.dynamic import best_rules, rules, shortest
from flowlit.solvers.search.evolution import times_of
from flowlit.solvers.search.paths import Paths, follow
from flowlit.solvers.search.staged import Predictor, apart

STRATEGIES = [Evolution(), Staged(rounds=2, children=12), DynamicProgramming([0.9, 1.0])]


def paths(intervals=8, batch=3):
    solver = RK4(intervals)
    x0 = SMOOTH.start(batch)
    made = Paths(solver.times())
    x, v = follow(lambda observe: solver(SMOOTH, x0, observe=observe).x1)
    made.add(x[:, :1], v[:, :1])
    made.add(x[:, 1:], v[:, 1:])
    return made, x, v


def problem(steps=4, size=6, seed=0, most=3, first=()):
    return Problem(Space(steps, most, first), size, seed, lambda: paths()[0])


def smooth_score(candidate):
    """A score without a solver: how far the times are from a grid, and orders from 2."""
    grid = Shifted(0.5)(candidate.steps)
    distance = sum((a - b) ** 2 for a, b in zip(candidate.times, grid, strict=True))
    return 0.01 + distance + 0.01 * sum(choice.order != 2 for choice in candidate.choices)


@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_known_solvers_are_candidates_adams_among_them(steps):
    x0 = SMOOTH.start(4)
    solvers = {
        "Euler": Euler(steps),
        "DEIS, order 1": DEIS(steps, order=1),
        "UniPC on velocity, order 2": UniPC(steps, order=2, prediction="velocity"),
        "UniPC on velocity, order 2, shifted": UniPC(
            steps, order=2, prediction="velocity", grid=Shifted(0.6)
        ),
        "UniPC on data, order 2": UniPC(steps, order=2),
        "DPMSolver, order 2": DPMSolver(steps, order=2),
        "Adams, order 3": Adams(steps - 1),
        "Adams, order 2": Adams(steps - 1, order=2),
        "Adams, order 3, shifted": Adams(steps - 1, grid=Shifted(0.6)),
    }
    candidates = known(steps, 4)
    assert set(candidates) == set(solvers)
    for name, solver in solvers.items():
        if steps == 2 and name == "Adams, order 3":
            assert candidates[name].choices[-1].order == 2  # there is no third evaluation
        found = candidates[name].schedule()(SMOOTH, x0)
        expected = solver(SMOOTH, x0)
        assert rmse(found.x1, expected.x1) < 1e-5, name  # times have six decimals
        assert found.nfe.tolist() == expected.nfe.tolist() == [steps] * 4


def test_a_canonical_candidate_computes_the_same_and_is_equal_to_those_that_do():
    draws = np.random.default_rng(0)
    x0 = start(2)
    for _ in range(40):
        steps = int(draws.integers(2, 6))
        times = [round(t, 6) for t in times_of(draws.normal(0, 0.4, steps).tolist())]
        choices = [
            Choice(
                int(draws.integers(1, min(i + 1, 4) + 1)),
                PREDICTIONS[draws.integers(3)],
                FORMS[draws.integers(3)] if draws.random() < 0.5 else "exact",
                bool(draws.integers(2)),
                float(draws.choice([0.0, 0.05])),
            )
            for i in range(steps)
        ]
        # a form of a velocity is none of UniPC's, and no search has it
        choices = [c._replace(form="exact") if c.prediction == "velocity" else c for c in choices]
        names = ("orders", "predictions", "forms", "correctors", "scales")
        raw = SolverSchedule(times, *map(list, zip(*(c[:5] for c in choices), strict=True)))
        assert [len(getattr(raw, name)) for name in names] == [steps] * 5
        candidate = Candidate.of(times, choices)
        assert torch.allclose(candidate.schedule()(curved, x0).x1, raw(curved, x0).x1, rtol=0, atol=1e-10)
        assert Candidate.of_schedule(candidate.schedule()) == candidate
    assert alike([0, 0.5, 1], Choice(1, "data", "b1", False, 0.3)) == alike([0, 0.5, 1], Choice())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: type(each).__name__)
def test_a_search_is_a_function_of_its_seed_and_goes_on_exactly(strategy):
    whole = search(strategy, problem(), smooth_score, 18)
    assert whole == search(strategy, problem(), smooth_score, 18)
    assert len({record.candidate for record in whole}) == len(whole)
    assert all(problem().space.fits(record.candidate) for record in whole)
    assert {(record.candidate.times[0], record.candidate.times[-1]) for record in whole} == {(0.0, 1.0)}
    for end in (0, 5, 6, 7, 13, len(whole)):
        asked = []
        rest = search(strategy, problem(), smooth_score, 18, whole[:end], asked.append)
        assert rest == whole and asked == whole[end:]
    if not isinstance(strategy, DynamicProgramming):
        assert len(whole) == 18
        assert whole != search(strategy, problem(seed=1), smooth_score, 18)
        with pytest.raises(ValueError, match="generation 2 has other candidates"):
            search(strategy, problem(seed=1), smooth_score, 18, whole[:14])


def test_failed_candidates_are_the_worst_and_do_not_end_a_search():
    def fails(candidate):
        return None if candidate.times[1] > 0.25 else smooth_score(candidate)

    for strategy in STRATEGIES[:2]:
        records = search(strategy, problem(), fails, 30)
        assert any(record.score is None for record in records)
        assert all(record.score is not None for record in best(records, 4))
    assert len(search(Staged(rounds=1), problem(), lambda candidate: None, 12)) == 12


@pytest.mark.parametrize("strategy", STRATEGIES[:2], ids=lambda each: type(each).__name__)
def test_on_a_gaussian_a_search_comes_nearer_than_every_known_solver(strategy):
    velocity = gaussian(0.3, 0.5)
    noise = torch.randn(2, 8, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(candidate, place=0):
        end = candidate.schedule()(velocity, noise[place]).x1
        return rmse(end, 0.3 + 0.5 * noise[place])  # the flow keeps quantiles

    records = search(strategy, problem(4, 10), score, 80)
    reference = min(score(each, 1) for each in known(4, 3).values())
    assert score(best(records, 1)[0].candidate, 1) < reference / 3


def test_errors_of_steps_follow_from_inner_products():
    made, x, v = paths()
    t = made.times
    euler = x[2] + (t[5] - t[2]) * v[2]
    assert made.error({5: -1.0, 2: 1.0}, {2: t[5] - t[2]}) == pytest.approx(rmse(euler, x[5]), abs=1e-9)
    table = rules(made, PREDICTIONS)
    for rule in table[1, 2, 4]:
        # one step of the schedule itself, from two exact evaluations
        choice = rule.choice
        if choice.order == 1:
            continue
        kind = choice.prediction
        scale = {"velocity": (0.0, 1.0), "data": (1.0, None), "noise": (1.0, None)}[kind][0]
        m = [scale * x[i] + _factor(kind, t[i]) * v[i] for i in (2, 1)]
        from flowlit.solvers.exponential import exponential_weights, linear_part

        variable = "time" if kind == "velocity" else "log_snr"
        weights = exponential_weights(kind, variable, [t[1]], t[2], t[4])
        end = linear_part(kind, t[2], t[4]) * x[2] + weights[0] * m[0] + weights[1] * m[1]
        assert rule.error == pytest.approx(rmse(end, x[4]), abs=1e-9)
    assert [len(table[0, 2, 4]), len(table[1, 2, 8]), len(table[-1, 0, 3])] == [2, 2, 1]


def _factor(kind, t):
    return {"velocity": 1.0, "data": 1 - t, "noise": -t}[kind]


@pytest.mark.parametrize("kinds", [(), ("velocity",), PREDICTIONS], ids=len)
@pytest.mark.parametrize("discount", [0.8, 1.0, 1.3])
def test_dynamic_programming_finds_the_best_of_all_ways(kinds, discount):
    made, *_ = paths()
    table = best_rules(rules(made, PREDICTIONS), kinds)

    def length(way):
        befores = (-1, *way)
        steps = zip(befores, way, way[1:], strict=False)
        return sum(discount**k * table[step].error for k, step in enumerate(steps))

    for steps in (1, 2, 4):
        inner = itertools.combinations(range(1, made.intervals), steps - 1)
        ways = {(0, *middle, made.intervals) for middle in inner}
        found = shortest(made, table, steps, discount)
        way = tuple(made.times.index(min(made.times, key=lambda t: abs(t - each))) for each in found.times)
        assert length(way) == pytest.approx(min(map(length, ways)), rel=1e-12)
        assert [c.order for c in found.choices] == [
            table[step].choice.order for step in zip((-1, *way), way, way[1:], strict=False)
        ]


def test_a_predictor_ranks_what_it_has_not_seen():
    records = search(Evolution(), problem(6, 20), smooth_score, 120)
    predictor = Predictor(records[:100])
    values = predictor([record.candidate for record in records[100:]])
    ranks = [np.argsort(np.argsort(each)) for each in (values, [record.score for record in records[100:]])]
    assert np.corrcoef(*ranks)[0, 1] > 0.5
    assert Predictor(records[:3])([records[3].candidate])  # few are enough


def test_what_is_tried_together_is_not_alike():
    times = [[0, 0.5, 1], [0, 0.501, 1], [0, 0.7, 1], [0, 0.502, 1], [0, 0.3, 1]]
    ranked = [alike(each, Choice(2)) for each in times]
    assert apart(ranked, 3, 0.5) == [ranked[0], ranked[2], ranked[4]]
    assert apart(ranked, 4, 0.5) == [ranked[0], ranked[2], ranked[4], ranked[1]]
    assert apart(ranked, 3, 0.0) == ranked[:3]
    assert apart(ranked[:1], 3, 0.5) == ranked[:1] and apart([], 3, 0.5) == []


def test_spaces_without_anything_to_find_are_refused():
    with pytest.raises(FlowlitError, match="one evaluation is Euler's step"):
        Space(1, 1)
    with pytest.raises(FlowlitError, match=r"order is 4 at most; expected 1 to 3, since 3 evaluations"):
        Space(3, 4)
    with pytest.raises(FlowlitError, match="has 3 steps of order 3 at most; expected 4 steps, of order 2"):
        Space(4, 2, (alike(time_grid(3), Choice(3)),))
    with pytest.raises(FlowlitError, match=r"12 steps do not fit into 8 fine ones; expected --fine 12"):
        search(DynamicProgramming(), problem(12), smooth_score, 40)
    tight = Candidate.of([0, 0.5, 0.50001, 1], [Choice()] * 3)
    assert not Space(3).fits(tight) and Space(3).fits(Candidate.of([0, 0.4, 0.5, 1], [Choice()] * 3))


def test_equal_scores_are_ranked_by_times():
    records = [Record(0, alike(times, Choice()), 1.0) for times in ([0, 0.6, 1], [0, 0.4, 1])]
    assert [record.candidate.times[1] for record in best(records, 2)] == [0.4, 0.6]


SAVED = {"a": 0.1, "b": 0.2, "c": 0.3}
HARM = {"a": [0.01, 0.01], "b": [0.002, 0.5], "c": [1.0, 1.0]}


def test_blocks_are_left_out_until_a_schedule_costs_no_more_and_those_that_harm_least():
    blocks = Blocks(SAVED, HARM, 3.5)
    whole = alike([0, 0.25, 0.5, 0.75, 1], Choice(2))
    assert blocks.cost(whole) == 4 and not blocks.fits(whole)
    fitted = blocks.fitted(whole)
    # by harm for what is saved: b early, then a
    assert [choice.skipped for choice in fitted.choices] == [("a", "b"), ("b",), (), ()]
    assert blocks.fits(fitted) and blocks.cost(fitted) == pytest.approx(3.5)
    assert blocks.fitted(fitted) == fitted
    everything = leaving_out(whole, [set(SAVED)] * 4)
    assert blocks.fitted(everything) == fitted  # what harms most comes back, as long as it fits
    assert not Blocks({"a": 0.9}, {"a": [0.0]}, 3.5).fits(fitted)  # another network's
    draws = np.random.default_rng(0)
    for _ in range(50):
        fitted = blocks.fitted(blocks.changed(fitted, draws), draws)
        assert blocks.fits(fitted) and blocks.cost(fitted) > 3.5 - 0.3
        assert Candidate.of_schedule(fitted.schedule()) == fitted


def test_evolution_finds_the_blocks_that_harm_least_at_equal_cost():
    """Where a step without b costs nothing before t = 0.5, and all else much, more steps are worth it."""

    def score(candidate):
        harm = sum(
            {"a": 1.0, "b": float(t >= 0.5), "c": 1.0}[name]
            for t, choice in zip(candidate.times, candidate.choices, strict=False)
            for name in choice.skipped
        )
        return smooth_score(candidate) + 0.1 * harm

    measured = {"a": [1.0], "b": [1.0], "c": [3.0]}  # without what depends on time
    space = Space(5, 2, blocks=Blocks(SAVED, measured, 4.4))
    searched = search(Evolution(), Problem(space, 10, 0, paths), score, 150)
    assert all(space.fits(record.candidate) for record in searched)
    found = best(searched, 1)[0].candidate
    assert [choice.skipped for choice in found.choices].count(("b",)) == 3
    assert all(t < 0.5 for t, c in zip(found.times, found.choices, strict=False) if c.skipped)
    again = search(Evolution(), Problem(space, 10, 0, paths), score, 150, searched[:37])
    assert again == searched and space.whole == 4


def test_a_schedule_to_start_from_leaves_out_what_the_search_may():
    skipping = leaving_out(alike([0, 0.5, 1], Choice()), [{"a"}, set()])
    blocks = Blocks(SAVED, HARM, 1.95)
    Space(2, 1, (skipping,), blocks)
    for other in (None, Blocks(SAVED, HARM, 1.5), Blocks({"b": 0.2}, HARM, 1.95)):
        with pytest.raises(FlowlitError, match="leaves out blocks that this search does not, or costs more"):
            Space(2, 1, (skipping,), other)
