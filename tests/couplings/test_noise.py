"""Noise by index: sample i is a function of (seed, i) alone."""

import hashlib
import json

import pytest
import torch
from tools import GOLDEN
from torch.utils.data import DataLoader, default_collate

from flowlit.couplings import SeededNoise, seeded_normal
from flowlit.couplings.noise import seeded_normals
from flowlit.errors import FlowlitError


def test_noise_has_the_pinned_bytes():
    """Stored couplings and seeds in papers rely on it: this file must never change."""
    pinned = json.loads((GOLDEN / "noise.json").read_text())
    for case in pinned:
        noise = seeded_normal(case["seed"], case["index"], case["shape"])
        assert hashlib.sha256(noise.numpy().tobytes()).hexdigest() == case["sha256"]
        assert noise.flatten()[:3].tolist() == pytest.approx(case["first"], abs=1e-7)


def test_noise_is_a_function_of_seed_and_index_only():
    shape = (3, 8, 8)
    long, short = SeededNoise(shape, 100, seed=4), SeededNoise(shape, 10, seed=4)
    torch.manual_seed(0)
    first = long[7]
    torch.manual_seed(1)
    [long[i] for i in (50, 3)]
    assert torch.equal(long[7].x0, first.x0) and torch.equal(short[7].x0, first.x0)
    in_workers = [n.x0 for n in DataLoader(long, batch_size=3, num_workers=2)]
    assert torch.equal(torch.cat(in_workers)[7], first.x0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0, 0), (0, 1)),
        ((0, 0), (1, 0)),
        ((0, 1), (1, 0)),
        ((5, 0), (5 + 2**32, 0)),
        ((5, 0), (5 + 2**64, 0)),
        ((0, 1), (0, 2**32 + 1)),
    ],
    ids=str,
)
def test_other_seeds_and_indices_give_other_noise(a, b):
    one, two = (seeded_normal(seed, index, (1, 32, 32)).flatten() for seed, index in (a, b))
    assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 0.15


def test_noise_is_standard_normal():
    x = torch.stack([seeded_normal(3, i, (1, 32, 32)) for i in range(200)]).double()
    assert abs(float(x.mean())) < 0.01 and abs(float(x.std()) - 1) < 0.01
    assert float((x**4).mean()) == pytest.approx(3, abs=0.1)
    assert abs(float((x[1:] * x[:-1]).mean())) < 0.01, "neighbouring indices are independent"


def test_noise_labels_are_balanced_by_index():
    noise = SeededNoise((1, 2, 2), 25, num_classes=10)
    batch = default_collate([noise[i] for i in range(25)])
    assert (
        batch.cond["label"].tolist() == [i % 10 for i in range(25)]
        and batch.cond["label"].dtype == torch.int64
    )
    assert batch.index.tolist() == list(range(25))
    assert SeededNoise((1, 2, 2), 3)[0].cond == {}


def test_rows_of_noise_are_those_drawn_one_by_one():
    seeds, indices, shape = [3, 5, 3, 2**40], [7, 7, 0, 2**33], (2, 3, 4)
    rows = torch.stack(
        [seeded_normal(seed, index, shape) for seed, index in zip(seeds, indices, strict=True)]
    )
    assert torch.equal(seeded_normals(seeds, indices, shape), rows)
    assert torch.equal(
        seeded_normals([3], [4, 9], shape), torch.stack([seeded_normal(3, i, shape) for i in (4, 9)])
    )


def test_noise_takes_labels_that_are_given():
    noise = SeededNoise((1, 2, 2), 3, num_classes=5, labels=[4, 0, 2])
    assert [int(noise[i].cond["label"]) for i in range(3)] == [4, 0, 2]
    assert torch.equal(noise[1].x0, SeededNoise((1, 2, 2), 3)[1].x0), "labels do not change the noise"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1; expected a whole number in"),
        ({"num": 0}, "num is 0; expected a whole number > 0"),
        ({"num_classes": 5, "labels": [1, 2]}, "2 labels for 3 samples"),
        ({"num_classes": 5, "labels": [1, 2, 5]}, r"labels are 1 … 5; expected 0 … 4"),
        ({"num_classes": 5, "labels": [-1, 2, 3]}, r"labels are -1 … 3; expected 0 … 4"),
        ({"labels": [0, 1, 0]}, "labels"),
    ],
    ids=str,
)
def test_noise_that_makes_no_sense(arguments, message):
    with pytest.raises(FlowlitError, match=message):
        SeededNoise((1, 2, 2), **{"num": 3, **arguments})
