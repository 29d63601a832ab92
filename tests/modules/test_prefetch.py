"""Pairs made while the network trains are the same pairs."""

import threading

import pytest
import runs
import tiny
import torch
from commandline import in_process
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from flowlit import rng
from flowlit._support.timers import DeviceTimer
from flowlit.modules.prefetch import PrefetchedBatch, Prefetcher
from flowlit.types import Pair

CPU = torch.device("cpu")


def test_it_is_one_batch_ahead_and_in_another_thread():
    seen = []

    def prepare(batch, number):
        seen.append((number, threading.current_thread().name))
        return batch * 10

    ahead = Prefetcher(DataLoader(range(6), batch_size=2), prepare, CPU)
    assert len(ahead) == 3
    batches = iter(ahead)
    first = next(batches)
    assert isinstance(first, PrefetchedBatch) and first.result().tolist() == [0, 10]
    assert [b.result().tolist() for b in batches] == [[20, 30], [40, 50]]
    assert [number for number, _ in seen] == [0, 1, 2] and all("lookahead" in name for _, name in seen)


def test_what_goes_wrong_there_is_told_here():
    def prepare(batch, number):
        raise ValueError("teacher")

    with pytest.raises(ValueError, match="teacher"):
        next(iter(Prefetcher(DataLoader(range(4)), prepare, CPU))).result()


def test_draws_of_the_thread_are_its_own():
    rng.begin(rng.Share(1, 4, 4))
    try:
        here = rng.rand(4)

        def prepare(batch, number):
            rng.begin(rng.Share(1, 4, 4))
            return rng.rand(4)

        there = next(iter(Prefetcher(DataLoader(range(2)), prepare, CPU))).result()
        assert torch.equal(here, there)
    finally:
        rng.begin(None)


def test_tensors_of_pairs_are_found():
    pair = (Pair(torch.zeros(1), torch.ones(1), {"label": torch.ones(1)}), 3)
    assert len(list(filter(torch.is_tensor, tree_leaves(pair)))) == 3


def test_a_stopwatch_tells_means_since_it_was_read():
    watch = DeviceTimer()
    assert watch.read() == 0
    for _ in range(3):
        with watch.running(CPU):
            pass
    assert 0 < watch.read() < 1 and watch.read() == 0


@pytest.mark.parametrize("accumulated", [1, 2])
def test_overlapped_pairs_train_to_the_same_bits(tmp_path, accumulated):
    teacher, solver = (
        tiny.unet(),
        {"class_path": "flowlit.solvers.RK45", "init_args": {"rtol": 0.1, "atol": 0.1}},
    )
    arguments = {"teacher": teacher, "solver": solver, "noise": tiny.noise(20, seed=4), "flip": True}
    coupling = {"class_path": "flowlit.couplings.Simulated", "init_args": arguments}
    callbacks = [
        tiny.EMA,
        tiny.anneal(4),
        {"class_path": "flowlit.callbacks.Throughput"},
        tiny.checkpoints(2),
    ]
    for name, overlap in (("plain", None), ("ahead", True)):
        data = {"overlap": overlap}
        network = tiny.unet(dropout=0.3)
        content = tiny.fit(
            tmp_path / name,
            "ReflowStudent",
            network,
            coupling,
            callbacks,
            5,
            data,
            accumulate_grad_batches=accumulated,
        )
        outcome = in_process("fit", "-c", tiny.write(tmp_path / f"{name}.yaml", content))
        assert outcome.code == 0, outcome.err
    assert tiny.same(
        *(tiny.weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("plain", "ahead"))
    )
    TIMED, runs.TIMED = runs.TIMED, ()
    try:
        logged = runs.logged(tmp_path / "plain")
    finally:
        runs.TIMED = TIMED
    assert all(
        0 < logged["step_seconds/coupling"][step] < logged["step_seconds/all"][step] for step in range(5)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_overlapped_epochs_have_draws_of_their_own(tmp_path, workers):
    """The first epoch's draws came again in every epoch."""
    arguments = {
        "teacher": tiny.unet(),
        "solver": {"class_path": "flowlit.solvers.Euler"},
        "noise": tiny.noise(20, seed=4),
    }
    coupling = {"class_path": "flowlit.couplings.Simulated", "init_args": arguments}
    for name, overlap in (("plain", False), ("ahead", True)):
        seen = {"class_path": "tiny.Seen", "init_args": {"folder": str(tmp_path / name)}}
        callbacks, data = (
            [seen, tiny.anneal(4), tiny.checkpoints(2)],
            {"overlap": overlap, "num_workers": workers},
        )
        content = tiny.fit(
            tmp_path / name, "ReflowStudent", None, coupling, callbacks, -1, data, max_epochs=3
        )
        outcome = in_process("fit", "-c", tiny.write(tmp_path / f"{name}.yaml", content))
        assert outcome.code == 0, outcome.err
    plain, ahead = ((tmp_path / name / "0.txt").read_text() for name in ("plain", "ahead"))
    assert plain == ahead and len(plain.splitlines()) == 3 * 16
    assert tiny.same(
        *(tiny.weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("plain", "ahead"))
    )
