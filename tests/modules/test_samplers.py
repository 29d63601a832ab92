"""Row orders: permutations that need no memory, and streams that go on at any place."""

from itertools import islice
from math import factorial

import numpy as np
import pytest

from flowlit._support.permutation import mix, shuffled
from flowlit.modules.samplers import ShuffledSampler, StridedSampler


def take(stream, count):
    return list(islice(iter(stream), count))


def test_mix_is_a_bijection_in_its_last_argument():
    numbers = [
        *range(100_000),
        *range(2**32 - 1000, 2**32),
        *(n * 7919 % 2**32 for n in range(200_000, 300_000)),
    ]
    assert len({mix(42, 1, n) for n in numbers}) == len(set(numbers))
    assert all(0 <= mix(n) < 2**32 for n in range(1000))


def test_mix_tells_seeds_ranks_and_their_order_apart():
    assert len({mix(a, b, 5) for a in range(100) for b in range(100)}) == 10_000
    assert mix(1, 2) != mix(2, 1)


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_each_pass_is_a_permutation(rows):
    seen = take(ShuffledSampler(rows, 0, seed=1), 5 * rows)
    for start in range(0, len(seen), rows):
        assert sorted(seen[start : start + rows]) == list(range(rows))


def test_passes_and_seeds_differ():
    seen = take(ShuffledSampler(50, 0, seed=1), 200)
    passes = {tuple(seen[i : i + 50]) for i in range(0, 200, 50)}
    assert len(passes) == 4
    assert seen[:50] != take(ShuffledSampler(50, 0, seed=2), 50)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_partition_the_stream(world):
    whole = take(ShuffledSampler(10, 0, seed=5), 60)
    parts = [
        take(ShuffledSampler(10, 0, seed=5, rank=rank, world=world), 60 // world) for rank in range(world)
    ]
    assert [parts[place % world][place // world] for place in range(60)] == whole


@pytest.mark.parametrize(
    ("start", "rank", "world"), [(0, 0, 1), (3, 0, 1), (10, 0, 1), (27, 1, 2), (4, 2, 3)]
)
def test_the_stream_goes_on_at_any_place(start, rank, world):
    whole = take(ShuffledSampler(10, 0, 9, rank, world), 50)
    assert take(ShuffledSampler(10, 0, 9, rank, world, start=lambda: start), 50 - start) == whole[start:]


def test_the_length_is_what_was_asked_for():
    assert len(ShuffledSampler(10, 123, seed=0)) == 123


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 7])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_stripes_cover_all_rows_once(rows, world):
    stripes = [StridedSampler(range(rows), rank, world) for rank in range(world)]
    assert sorted(row for stripe in stripes for row in stripe) == list(range(rows))
    assert [len(stripe) for stripe in stripes] == [len(list(stripe)) for stripe in stripes]


def test_stripes_take_any_rows_in_their_order():
    rows = np.array([0, 1, 2, 7, 30, 31])
    first, second = (StridedSampler(rows, rank, 2) for rank in range(2))
    assert list(first) == [0, 2, 30] and list(second) == [1, 7, 31]
    assert all(type(row) is int for row in first), "what data sets are asked for"


def test_each_epoch_begins_where_it_is_told():
    """By rows that were seen, whatever an epoch was meant to be long."""
    whole, seen = list(islice(ShuffledSampler(10, 8, seed=1), 24)), []
    stream = ShuffledSampler(10, 8, seed=1, start=lambda: len(seen))
    for rows in (8, 5, 8, 3):
        seen += list(islice(stream, rows))
    assert seen == whole


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_shuffled_is_a_bijection(rows):
    for key in range(5):
        assert sorted(shuffled(np.arange(rows), rows, key).tolist()) == list(range(rows))


def test_all_permutations_of_four_rows_are_equally_likely():
    seen = [tuple(shuffled(np.arange(4), 4, key).tolist()) for key in range(4800)]
    counts = np.array([seen.count(p) for p in set(seen)])
    assert len(counts) == factorial(4)
    assert ((counts - 200) ** 2 / 200).sum() < 60, "chi-squared with 23 degrees of freedom, p about 1e-4"


def test_a_shuffle_has_no_memory_of_the_order():
    rows = 100_000
    order = shuffled(np.arange(rows), rows, key=7)
    assert abs(np.corrcoef(order, np.arange(rows))[0, 1]) < 0.015, "five standard deviations"
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.015
    assert abs(np.corrcoef(order, shuffled(np.arange(rows), rows, key=8))[0, 1]) < 0.015
    assert (order == np.arange(rows)).sum() < 10, "as many fixed points as chance has"


def test_places_are_looked_up_alone():
    rows = 10**12
    places = np.array([0, 1, 10**11, rows - 1])
    together = shuffled(places, rows, key=1)
    assert [int(shuffled(places[i : i + 1], rows, key=1)[0]) for i in range(4)] == together.tolist()
    assert together.max() < rows and len(set(together.tolist())) == 4
