"""Stores of pairs: faults that were found in the hands of others."""

import os

import pytest
from stores import fill

from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.errors import FlowlitError


def test_an_empty_batch_of_pairs_is_empty(tmp_path):
    """It was a ZeroDivisionError."""
    for x0 in ("float32", "seed"):
        pair = StoredPairs([fill(tmp_path / x0, x0=x0)]).__getitems__([])
        assert pair.x0.shape == pair.x1.shape == (0, 1, 4, 4) and pair.cond["label"].shape == (0,)


@pytest.mark.parametrize("name", ["thesis.tex", "photos/a.png", "manifest.json"])
def test_a_store_does_not_begin_among_other_files(tmp_path, name):
    """It did, and its shards lay between a stranger's files."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(FlowlitError, match=r"manifest\.json"):
        fill(tmp_path)
    assert (tmp_path / name).read_text() == "{}"
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", [".DS_Store", ".gitignore", "stage.json"])
def test_hidden_files_and_those_of_a_pipeline_are_no_other_files(tmp_path, name):
    (tmp_path / name).write_text("{}")
    assert len(StoredPairs([fill(tmp_path)])) == 50


def test_a_shard_that_became_a_pipe_does_not_block(tmp_path):
    pairs = StoredPairs([fill(tmp_path)])
    shard = tmp_path / pairs.entries[-1][1]["file"]
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(FlowlitError, match="no plain file"):
        pairs[49]


def test_a_store_of_nothing_but_a_manifest_may_still_change(tmp_path):
    """A run that was killed before its first shard, and begins again with other options."""
    fill(tmp_path, shards=[], finish=False)
    assert Store(tmp_path).empty()
    fill(tmp_path, shard_size=25)
    assert len(StoredPairs([tmp_path])) == 50
