"""The table of figures: its arithmetic, its baselines against flowlit's formulas, and a run at a tiny
size.
"""

from math import comb

import numpy as np
import pytest
import torch
from tools import tiny_unet

from benchmarks import figures, growth, research
from benchmarks.data import in_ram, write_store
from benchmarks.fast import BareLoop, Beside, fit
from benchmarks.figure import Aim, Figure, in_turns
from benchmarks.little import average_figures, helps
from benchmarks.timing import likely, quartiles
from flowlit.metrics.frechet import Moments
from flowlit.networks import UNet
from flowlit.objectives import AnnealedReflow, FlowGuided
from flowlit.types import Pair

LITTLE = figures.LITTLE
pytestmark = pytest.mark.usefixtures("loud_afterwards")


@pytest.fixture
def pairs(tmp_path):
    store = write_store(tmp_path / "pairs", 32, (3, 8, 8), "float16", "float16")
    return store, in_ram(store)


def network():
    torch.manual_seed(0)
    return UNet(**{**LITTLE, "dropout": 0.0})


def test_a_figure_compares_turn_by_turn():
    found = Figure("a step", [2.0, 4.0, 9.0], [1.0, 4.0, 3.0], "s", 1.5, limit=1.5, limited="products")
    assert found.ratios == [2, 1, 3] and found.reached == 0.5
    row = found.row()
    assert (row["baseline"], row["flowlit"], row["ratio"], row["turns"], row["reached"]) == (
        "4",
        "3",
        "2.00",
        "1 … 3",
        "50%",
    )
    [claim] = found.claims()
    assert claim.met and not Figure("a step", [1.0], [1.0], "s", 1.5).claims()[0].met


def test_an_aim_may_be_missing():
    aim = Aim(None, 2.0)
    assert aim.figure("cpu", "latency", [1.0], [1.0], "s").claims() == []
    assert not aim.figure("cuda", "latency", [1.0], [1.0], "s").claims()[0].met


def test_a_gpu_may_have_further_aims():
    aim = Aim(1.5, None, most=0.5, share=0.35)
    assert len(aim.figure("cpu", "latency", [1.0], [1.0], "s", limit=0.4).claims()) == 1
    assert [claim.met for claim in aim.figure("cuda", "latency", [1.0], [1.0], "s", limit=0.4).claims()] == [
        False,
        True,
    ]


def test_contenders_take_turns():
    order = []
    assert in_turns({name: lambda name=name: order.append(name) or 1.0 for name in "ab"}, 2) == {
        "a": [1, 1],
        "b": [1, 1],
    }
    assert order == ["a", "b", "a", "b"]


def test_the_research_script_trains_for_flowlits_reflow_loss(pairs, monkeypatch):
    """The same draws put in both, the same loss comes out."""
    script = research.Training(network(), *pairs[1], 4, "cpu")
    script.step = 150_000
    x0, x1 = (part[:4] for part in pairs[1])
    t, noise = torch.rand(4), torch.randn_like(x0)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (t - 0.001) / 0.999)
    monkeypatch.setattr(torch, "randn_like", lambda *_: noise)
    objective = AnnealedReflow(times=lambda n, device: t, beta=0.5)
    monkeypatch.setattr("flowlit.rng.randn_like", lambda *_: noise)
    torch.testing.assert_close(script.reflow(x0, x1), objective(script.network, Pair(x0, x1))["loss"])


def test_the_research_script_distils_by_flowlits_two_steps(pairs, monkeypatch):
    guide = network()
    script = research.Training(network(), *pairs[1], 4, "cpu", guide)
    x0, x1 = (part[:4] for part in pairs[1])
    t, noise = 0.2 + 0.6 * torch.rand(4), torch.randn_like(x0)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (t - 0.2) / 0.6)
    monkeypatch.setattr(torch, "randn_like", lambda *_: noise)
    monkeypatch.setattr("flowlit.rng.randn_like", lambda *_: noise)
    guided = FlowGuided(guide, times=lambda n, device: t)(script.network, Pair(x0, x1))["loss"]
    precise = (x0 + script.network(x0, torch.zeros(4)) - x1).square().mean()
    torch.testing.assert_close(script.distillation(x0, x1), precise + guided)


def test_research_averages_and_statistics_are_flowlits():
    net = network()
    each, rarely = average_figures(net, "cpu", repeats=1, times=4)
    assert each.limit == 4 * rarely.limit > 0 and each.ratios[0] > 0 and rarely.ratios[0] > 0
    rows = torch.randn(50, 4)
    moments = Moments(4)
    moments.update(rows)
    for ours, theirs in zip(moments.compute(), research.statistics(rows.numpy()), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-12)


def test_all_contenders_train(pairs):
    store, held = pairs
    script = research.Training(network(), *held, 4, "cpu")
    assert script.steps(3) == 12 and len(set(script.losses)) == 4
    bare = BareLoop(network(), *held, 4, "cpu")
    before = [parameter.clone() for parameter in bare.parameters]
    bare.steps(2)
    assert any(not torch.equal(a, b) for a, b in zip(before, bare.parameters, strict=True))
    net = network()
    before = [parameter.clone() for parameter in net.parameters()]
    counted = []
    watch = Beside({"bare": bare.steps, "counted": counted.append}, block=2, warm=1, device="cpu")
    fit(net, store, 4, 9, "cpu", watch)
    assert counted == [2] * 5 and bare.step == 12  # a turn before each block, and one behind the last
    assert {name: len(laps) for name, laps in watch.laps.items()} == {"bare": 4, "counted": 4, "flowlit": 3}
    assert min(watch.laps["flowlit"]) > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.journey
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_table_at_a_tiny_size(monkeypatch):
    monkeypatch.setattr(
        "benchmarks.figures.helps", lambda repeats: ([{"process": "flowlit", "seconds": 0.1}], [])
    )
    result = figures.run(**figures.QUICK)
    machine, table, beside, _ = result.tables.values()
    assert len(machine) == 4 and len(beside) == 4
    assert len(table) == 10 and all(row["unit"] in ("s", "MB", "s a pair", "s an image") for row in table)
    assert len(result.claims) >= 8


def test_help_is_timed_first_and_again(monkeypatch):
    times = iter(range(1, 100))
    monkeypatch.setattr("benchmarks.little.command_seconds", lambda *_: next(times) / 10)
    rows, claims = helps(repeats=1)
    assert [(row["seconds"], row["first"]) for row in rows] == [(0.3, 0.1), (0.4, 0.2), (0.5, ""), (0.6, "")]
    assert [claim.met for claim in claims] == [True, False, True]


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.timeout(900)
def test_growth(monkeypatch):
    monkeypatch.setattr(
        growth, "arguments", lambda size: {"a": tiny_unet().spec["init_args"], "b": LITTLE}[size]
    )
    sizes = {
        "sizes": ("a", "b"),
        "middle": "b",
        "batch": 2,
        "steps": 1,
        "repeats": 1,
        "shared": 4,
        "shared_steps": 1,
    }
    found = growth.run(**sizes, counts=(16, 304))
    networks, processes, generated = found.tables.values()
    assert [(row["images"], row["precision"]) for row in generated] == [
        (n, k) for k in ("float32", "bfloat16") for n in (16, 304)
    ]
    assert found.claims[-1].met and all(row["whole_ms"] > 0 for row in generated)
    assert networks[0]["s per GMAC, of the smallest"] == 1
    assert networks[0]["parameters"] < networks[1]["parameters"] and [
        row["processes"] for row in processes
    ] == [1, 2]


@pytest.mark.parametrize("number", [12, 40, 100])
def test_the_median_of_endless_repetition_is_likely_found(number):
    """19 times of 20, by the binomial law of how many values lie below it."""
    low, high = (int(part) for part in likely(range(1, number + 1)).split(" … "))
    inside = sum(comb(number, below) for below in range(low, high)) / 2**number
    narrower = sum(comb(number, below) for below in range(low + 1, high - 1)) / 2**number
    assert low + high == number + 1 and narrower < 0.95 and inside > 0.945


def test_a_few_values_say_nothing_of_that():
    assert (
        likely([1.0, 2.0, 3.0]) == "–"
        and quartiles([1.0, 2.0, 3.0]) == "1.5 … 2.5"
        and quartiles([1.0]) == "1 … 1"
    )
