"""Draws belong to the step: any division of the batch has the same rows."""

import pytest
import torch

from flowlit import rng
from flowlit.rng import Share


@pytest.fixture(autouse=True)
def nobody_shares():
    yield
    rng.begin(None)


def made(share, shape=(3, 4)):
    rng.begin(share)
    n = share.rows
    x = torch.empty(n, *shape)
    return [rng.randn_like(x), rng.rand(n), rng.randint(7, n), rng.randn(n)]


@pytest.mark.parametrize(("devices", "turns"), [(1, 2), (2, 1), (3, 1), (2, 3), (12, 1)])
def test_devices_and_accumulated_batches_have_the_rows_of_the_whole(devices, turns):
    whole = made(Share(5, 12, 12))
    rows = 12 // devices // turns
    for turn in range(turns):
        for rank in range(devices):
            first = turn * rows * devices + rank
            mine = [first + i * devices for i in range(rows)]
            for all_rows, own in zip(whole, made(Share(5, 12, rows, first, devices)), strict=True):
                assert torch.equal(all_rows[mine], own)


def test_alone_they_are_pytorch_s_own():
    """One device draws what the global generator would: results did not change when this was introduced."""
    rng.begin(Share(9, 6, 6))
    ours = rng.randn_like(torch.empty(6, 5)), rng.rand(6)
    torch.manual_seed(9)
    assert torch.equal(ours[0], torch.randn(6, 5)) and torch.equal(ours[1], torch.rand(6))


def test_outside_of_steps_the_global_generator_draws():
    torch.manual_seed(3)
    ours = rng.rand(4)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(4))


def test_they_leave_the_global_generator_alone():
    torch.manual_seed(3)
    rng.begin(Share(1, 8, 8))
    rng.randn_like(torch.empty(8, 2))
    ours = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(2))


def test_later_draws_differ_from_earlier_ones_and_other_steps():
    rng.begin(Share(1, 8, 8))
    first, second = rng.rand(8), rng.rand(8)
    rng.begin(Share(2, 8, 8))
    assert not torch.equal(first, second) and not torch.equal(first, rng.rand(8))


def test_a_number_for_all_is_the_same_on_every_device():
    values = []
    for rank in range(2):
        rng.begin(Share(4, 8, 4, rank, 2))
        values.append(rng.rand(1))
    assert torch.equal(*values)


def test_half_precision_has_the_same_noise_rounded():
    rng.begin(Share(4, 8, 8))
    full = rng.randn_like(torch.empty(8, 3))
    rng.begin(Share(4, 8, 8))
    assert torch.equal(rng.randn_like(torch.empty(8, 3, dtype=torch.bfloat16)), full.bfloat16())


def test_seeds_of_a_step_are_those_of_manual_seed(monkeypatch):
    """On the host; of other devices only the one that is asked for is told."""
    rng.seed(torch.device("cpu"), 11)
    ours = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(ours, torch.rand(3))
    told = []
    monkeypatch.setattr(torch.cuda, "manual_seed", told.append)
    rng.seed(torch.device("cuda", 1), 11)
    assert told == [11] and torch.equal(ours, torch.rand(3))
