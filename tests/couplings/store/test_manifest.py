"""What a store says of itself, and how its rows are cut into shards."""

import json
import subprocess
import sys

import pytest
import torch
from commandline import REPOSITORY
from stores import edit_manifest, fill

from flowlit.couplings import SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import describe, differences, read_manifest
from flowlit.couplings.store.plan import plan
from flowlit.couplings.store.schema import DIRECTION, FORMAT, VERSION
from flowlit.errors import FlowlitError


@pytest.mark.parametrize("size", [1, 3, 5, 100])
@pytest.mark.parametrize("counts", [[1], [5], [15], [5, 12], [1, 2, 3, 50]], ids=str)
def test_shards_cover_every_row_once_and_in_order(counts, size):
    shards = plan(counts, size)
    assert [row for shard in shards for row in range(shard.first, shard.first + shard.rows)] == list(
        range(counts[-1])
    )
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(1 <= shard.rows <= size for shard in shards)


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_store_that_grows_keeps_its_shards(size):
    small, large = plan([5, 12], size), plan([5, 12, 13, 40], size)
    assert large[: len(small)] == small and sum(shard.rows for shard in large) == 40


def test_shards_are_named_by_their_number():
    assert [shard.file for shard in plan([5], 3)] == ["00000.safetensors", "00001.safetensors"]


def test_manifests_are_read_without_torch():
    """So that `flowlit couplings info` is instant."""
    code = (
        "import sys, flowlit.couplings.store.manifest; sys.exit(any(m in sys.modules for m in ('torch', "
        "'numpy', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


GOOD = {"format": FORMAT, "version": VERSION, "direction": DIRECTION}
WHOLE = json.loads((REPOSITORY / "tests/golden/before_move/couplings/manifest.json").read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no manifest of couplings"),
        ("{", "is no manifest of couplings"),
        (json.dumps(GOOD)[:-20], "is no manifest of couplings"),
        ("[]", "is no manifest of couplings"),
        ("{}", "is no manifest of couplings"),
        ('{"format": "zarr", "version": 1}', "is zarr version 1.*make the couplings again"),
        (
            json.dumps({**GOOD, "version": 1}),
            "version 1; this flowlit reads .* version 2; make the couplings again",
        ),
        (
            json.dumps({**GOOD, "version": 9}),
            "version 9; this flowlit reads .* version 2; install a newer flowlit",
        ),
        (json.dumps({**GOOD, "version": "9"}), "version 9"),
        (json.dumps({**GOOD, "version": None}), "version None"),
        (
            json.dumps({**WHOLE, "direction": "data to noise"}),
            "direction of the pairs is 'data to noise'; expected",
        ),
        (json.dumps({"format": FORMAT, "version": VERSION}), "lacks direction, origin"),
    ],
)
def test_a_manifest_that_cannot_be_used(content, message, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FlowlitError, match=message) as raised:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(raised.value)


def test_a_manifest_that_is_no_text(tmp_path):
    (tmp_path / "manifest.json").write_bytes(bytes(range(128, 256)))
    with pytest.raises(FlowlitError, match="is no manifest of couplings"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("where", ["nowhere", "file"])
def test_a_store_that_is_not_there(where, tmp_path):
    (tmp_path / "file").write_text("I am no folder")
    with pytest.raises(FlowlitError, match=rf"no couplings in .*{where} .*flowlit couple -c .*--store"):
        read_manifest(tmp_path / where)
    assert not (tmp_path / "nowhere").exists()


def test_differences_are_told_in_words(tmp_path):
    known = read_manifest(fill(tmp_path))
    assert differences(known, json.loads(json.dumps(known))) == []
    changed = {
        **known,
        "x1": "uint8",
        "teacher": {"sha256": "0123456789abcdef"},
        "labels": None,
        "complete": False,
    }
    assert differences(known, changed) == [
        "x1: float32 there, uint8 now",
        "labels: num_classes 4, law balanced there, None now",
        "teacher: sha256 abc there, sha256 0123456789ab now",
    ]


def test_a_manifest_is_described_for_people(tmp_path):
    folder = fill(tmp_path, x0="seed", x1="uint8")
    text = describe(folder, read_manifest(folder))
    for fact in (
        "50 of 1×4×4",
        "made again from the seed",
        "uint8, rounded by",
        "seeds 3",
        "3 of 3 listed",
        "NFE",
        "2.00 on",
    ):
        assert fact in text, fact
    assert "NOT FINISHED" not in text
    edit_manifest(tmp_path, lambda manifest: manifest.update(complete=False))
    assert "NOT FINISHED" in describe(folder, read_manifest(folder))


def test_a_store_that_was_only_begun_can_be_described(tmp_path):
    folder = fill(tmp_path, shards=[], finish=False)
    text = describe(folder, read_manifest(folder))
    assert "NOT FINISHED" in text and "0 of 3 listed" in text


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x0", "index", "label", "probe"])
def test_a_manifest_cannot_name_conditions_after_paths_or_other_tensors(name, tmp_path):
    """An export writes a file for each."""
    fill(tmp_path, num=5)
    edit_manifest(tmp_path, lambda manifest: manifest.update(conditions={name: ["float32", []]}))
    with pytest.raises(FlowlitError, match=r"conditions .*expected names of letters"):
        read_manifest(tmp_path)


def test_a_source_cannot_have_conditions_that_replace_other_tensors(tmp_path):
    class Indexed(SeededNoise):
        def batch(self, indices):
            return super().batch(indices)._replace(cond={"index": torch.zeros(len(indices))})

    with pytest.raises(FlowlitError, match=r"couple: conditions \['index'\]"):
        fill(tmp_path, origin=FromNoise(Indexed((1, 4, 4), 5)), num=5)
    assert not (tmp_path / "manifest.json").exists()
