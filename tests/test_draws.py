"""Draws belong to the step: any division of the batch has the same rows."""

import pytest
import torch

from flowlit import draws
from flowlit.draws import Share


@pytest.fixture(autouse=True)
def nobody_shares():
    yield
    draws.begin(None)


def made(share, shape=(3, 4)):
    draws.begin(share)
    n = share.rows
    x = torch.empty(n, *shape)
    return [draws.randn_like(x), draws.rand(n), draws.randint(7, n), draws.randn(n)]


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
    draws.begin(Share(9, 6, 6))
    ours = draws.randn_like(torch.empty(6, 5)), draws.rand(6)
    torch.manual_seed(9)
    assert torch.equal(ours[0], torch.randn(6, 5)) and torch.equal(ours[1], torch.rand(6))


def test_outside_of_steps_the_global_generator_draws():
    torch.manual_seed(3)
    ours = draws.rand(4)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(4))


def test_they_leave_the_global_generator_alone():
    torch.manual_seed(3)
    draws.begin(Share(1, 8, 8))
    draws.randn_like(torch.empty(8, 2))
    ours = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.rand(2))


def test_later_draws_differ_from_earlier_ones_and_other_steps():
    draws.begin(Share(1, 8, 8))
    first, second = draws.rand(8), draws.rand(8)
    draws.begin(Share(2, 8, 8))
    assert not torch.equal(first, second) and not torch.equal(first, draws.rand(8))


def test_a_number_for_all_is_the_same_on_every_device():
    values = []
    for rank in range(2):
        draws.begin(Share(4, 8, 4, rank, 2))
        values.append(draws.rand(1))
    assert torch.equal(*values)


def test_half_precision_has_the_same_noise_rounded():
    draws.begin(Share(4, 8, 8))
    full = draws.randn_like(torch.empty(8, 3))
    draws.begin(Share(4, 8, 8))
    assert torch.equal(draws.randn_like(torch.empty(8, 3, dtype=torch.bfloat16)), full.bfloat16())


def test_seeds_of_a_step_are_those_of_manual_seed(monkeypatch):
    """On the host; of other devices only the one that is asked for is told."""
    draws.seed(torch.device("cpu"), 11)
    ours = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(ours, torch.rand(3))
    told = []
    monkeypatch.setattr(torch.cuda, "manual_seed", told.append)
    draws.seed(torch.device("cuda", 1), 11)
    assert told == [11] and torch.equal(ours, torch.rand(3))
