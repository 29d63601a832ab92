"""Each benchmark runs at a tiny size, and its rows come out. Nothing timed is asserted: see
benchmarks/README.md.
"""

import json
import math

import pytest
import torch
from tools import LinearField, tiny_unet

from benchmarks import generation, large_store, making, reading, solving, statistics
from benchmarks.__main__ import main
from benchmarks.report import Claim, Result, table
from benchmarks.scipy_rk45 import flowlit_rk45, reference, scipy_rk45
from flowlit.couplings import seeded_normal

TINY_UNET = tiny_unet().spec["init_args"]
pytestmark = pytest.mark.usefixtures("loud_afterwards")


def rows_of(result):
    assert result.claims and all(isinstance(claim.met, bool) for claim in result.claims)
    for rows in result.tables.values():
        for row in rows:
            assert all(value > 0 for name, value in row.items() if name.endswith("_per_s")), row
    return list(result.tables.values())


def test_reading():
    sizes = {"pairs": 64, "shape": (1, 8, 8), "batch": 16, "turns": 2, "repeats": 2}
    [rows] = rows_of(reading.run(**sizes, student_batch=2, student_repeats=1, student=TINY_UNET))
    what = [row["what"] for row in rows]
    assert len(set(what)) == 11 and sum("store" in name for name in what) == 7
    assert what[-1] == "student's training step"


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts three processes of its own
def test_large_store():
    [rows] = rows_of(
        large_store.run(counts=(200, 1200), shard_size=100, batch=16, cold=4, steady=8, repeats=1)
    )
    assert [(row["pairs"], row["files"], row["checksums"]) for row in rows] == [
        (200, 2, "yes"),
        (1200, 12, "yes"),
        (1200, 12, "no"),
    ]
    assert rows[0]["of_smallest"] == 1 and all(row["batches"] == 13 for row in rows)


def test_making():
    sizes = {"pairs": 6, "shard_size": 4, "batch": 2, "tolerance": 0.1, "repeats": 1, "samples": 3}
    shares, rows, ratios = rows_of(making.run(**sizes, tolerances=(1e-1,), network=TINY_UNET))
    assert 0 < shares[0]["solver_of_couple"] < shares[0]["solver_of_loop"] <= 1
    assert [row["solver"] for row in rows] == ["flowlit", "scipy"] and len(ratios) == 1
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert theirs["calls"] == theirs["evaluations_per_sample"], (
            "the whole batch is in each of SciPy's calls"
        )
        assert ours["calls"] >= ours["evaluations_per_sample"], (
            "samples leave flowlit's batch when they have arrived"
        )
        assert ours["error_median"] <= ours["error_worst"]


def test_statistics(monkeypatch):
    monkeypatch.setattr(statistics, "start_probe", statistics.probe)
    times, values, memories = rows_of(
        statistics.run(counts=(30, 60), dim=8, reference=50, repeats=1, plain=(60,))
    )
    assert [row["features"] for row in times] == [30] * 3 + [60] * 4 and [
        row["features"] for row in memories
    ] == [30] * 3 + [60] * 3
    assert {row["what"] for row in times} == {
        statistics.OURS,
        statistics.THEIRS,
        statistics.PLAIN,
        statistics.HALVES,
    }
    for value in values:
        assert value["torch-fidelity: relative"] < 1e-4 and value[f"{statistics.HALVES}: relative"] < 1e-9
    assert values[1][f"{statistics.PLAIN}: relative"] < 1e-6


def test_statistics_probe_is_a_process_of_its_own():
    assert statistics.start_probe("bank", 20, 8, 0).keys() == {"anonymous_mb", "resident_mb", "seconds"}


def test_features_of_the_benchmark_are_realistic():
    whole = torch.cat(list(statistics.features(1500, 512, seed=3)))
    assert (
        whole.shape == (1500, 512) and float(whole.min()) == 0 and not torch.equal(whole[:500], whole[1000:])
    )
    alone = (
        1 + (512 / 1500) ** 0.5
    ) ** 2  # the largest eigenvalue that independent features would have (Marchenko and Pastur)
    assert float(torch.linalg.eigvalsh(torch.corrcoef(whole.T))[-1]) > 1.2 * alone
    assert torch.equal(whole, torch.cat(list(statistics.features(1500, 512, seed=3))))


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.timeout(900)  # starts ten processes of its own
def test_generation():
    rows, ratios, growth = rows_of(
        generation.run(images=8, counts=(4, 8), batch=4, repeats=1, network=TINY_UNET)
    )
    assert [row["what"] for row in rows] == list(generation.WAYS) and [row["images"] for row in growth] == [
        4,
        8,
    ]
    assert all(row["ratio"] > 0 for row in ratios)


def test_generation_claims_tell_what_was_missed():
    ratios = [{"ratio": 1.1}]
    growth = [
        {"images": 10, "seconds": 1.0, "peak_mb": 5.0},
        {"images": 20, "seconds": 9.0, "peak_mb": 500.0},
    ]
    assert [claim.met for claim in generation.claims(ratios, growth, [True, False])][1:] == [
        False,
        False,
        False,
    ]


def test_solving():
    """A velocity that is smooth, so that orders of convergence show."""
    field = LinearField(a=1.5, b=-2.0).requires_grad_(False)
    sizes = {"samples": 3, "tolerances": (1e-1, 1e-3), "steps": (2, 8, 32, 128), "finest": 1e-9, "repeats": 2}
    rows, found = rows_of(solving.run(network=field, **sizes))
    calls = {(row["solver"], row["setting"]): row["calls"] for row in rows}
    assert [calls["Adams", n] for n in ("2", "8", "32", "128")] == [3, 9, 33, 129], "one more than steps"
    assert all(row["evaluations_per_sample"] == row["calls"] for row in rows), (
        "the whole batch is in each call"
    )
    errors = [row["error_rms"] for row in rows if row["solver"] == "Adams"]
    assert errors[0] > 10 * errors[1] > 300 * errors[2], "order 3"
    assert [equal["tolerance"] for equal in found] == [1e-1, 1e-3]
    for equal in found:
        assert equal["scipy_evaluations"] in {row["calls"] for row in rows if row["solver"] == "SciPy RK45"}
        assert 3 < equal["adams_evaluations"] < 129 and equal["ratio"] > 0
    line = solving.figure(network=field, **sizes)
    assert line.aim == solving.AIM and len(line.ratios) == 2


def test_solving_compares_at_equal_error_and_never_with_a_lucky_setting():
    errors, costs = [1.0, 0.1, 0.001], [1.0, 10.0, 1000.0]
    assert solving.at_error(0.01, errors, costs) == pytest.approx(100)
    assert solving.at_error(0.1, errors, costs) == pytest.approx(10)
    assert solving.at_error(5.0, errors, costs) == 1.0 and solving.at_error(1e-4, errors, costs) == float(
        "inf"
    )
    assert solving.at_error(0.5, [1.0, 1.0, 0.1], costs) == pytest.approx(10 * 100 ** math.log10(2)), (
        "not of the first setting"
    )

    def equal(tolerance, scipy, flowlit):
        return solving.Equal(tolerance, 0.1, 20, 5.0, [scipy], [flowlit])

    found = [equal(1e-2, 1.0, 9.0), equal(1e-3, 1.0, 0.4), equal(1e-4, 1.0, 0.5)]
    assert solving.hardest(found) is found[2], "tolerances too loose for pairs do not count"
    assert solving.hardest([equal(1e-4, 1.0, float("inf"))]).ratios == [0.0], (
        "an error that is out of reach is no success"
    )


def test_solving_trains_its_teacher_alike_each_time():
    teachers = [solving.teacher(3, "cpu", seed) for seed in (0, 0, 1)]
    states = [torch.cat([p.flatten() for p in network.parameters()]) for network in teachers]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert not any(p.requires_grad for p in teachers[0].parameters()) and not teachers[0].training


def test_both_solvers_and_the_reference_meet():
    field, x0 = LinearField().requires_grad_(False), seeded_normal(0, 0, (3, 1, 4, 4))
    truth = reference(field, x0, 1e-10)
    for solve in (flowlit_rk45, scipy_rk45):
        assert float((solve(field, x0, 1e-6).x1 - truth).abs().max()) < 1e-5


def test_command_writes_tables_and_conditions(tmp_path, monkeypatch, capsys):
    result = Result({"Rows": [{"what": "a", "pairs_per_s": 1.5}]}, [Claim("it runs", "yes", "yes", True)])
    monkeypatch.setattr(large_store, "run", lambda **sizes: result)
    out = tmp_path / "large_store.json"
    assert main(["large_store", "--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert {
        "command",
        "date",
        "seed",
        "cpu",
        "cores",
        "versions",
        "load",
        "tables",
        "claims",
    } <= written.keys()
    assert "Claims" in capsys.readouterr().out


@pytest.mark.parametrize("value", [12, 0.5, "text", True])
def test_tables_show_every_kind_of_value(value):
    assert len(set(map(len, table([{"name": value}]).splitlines()[:2]))) == 1
