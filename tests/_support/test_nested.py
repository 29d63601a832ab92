"""Rows of nested batches."""

import pytest
import torch

from flowlit._support.nested import rows_of
from flowlit.types import Noise, Pair

ROWS = {
    "a slice": slice(1, 3),
    "a slice beyond the end": slice(3, 9),
    "indices, some of them twice": torch.tensor([4, 0, 4]),
    "a mask": torch.tensor([True, False, False, True, True]),
    "nothing": slice(0, 0),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_are_those_of_every_tensor(rows):
    x0, x1, label = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2), torch.arange(5)
    pair = rows_of(Pair(x0, x1, {"label": label}), rows)
    assert isinstance(pair, Pair) and list(pair.cond) == ["label"]
    assert torch.equal(pair.x0, x0[rows]) and torch.equal(pair.x1, x1[rows])
    assert torch.equal(pair.cond["label"], label[rows])
    noise = rows_of(Noise(label, x0), rows)
    assert isinstance(noise, Noise) and noise.cond == {}
    assert torch.equal(noise.index, label[rows]) and torch.equal(rows_of(x0, rows), x0[rows])


def test_slices_share_memory_with_the_batch():
    x0 = torch.zeros(4, 1, 1, 1)
    rows_of(Pair(x0, x0), slice(0, 2)).x0.fill_(1)
    assert x0.flatten().tolist() == [1, 1, 0, 0]
