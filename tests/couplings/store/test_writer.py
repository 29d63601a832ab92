"""Writing stores: every file whole or absent, one writer at a time, nothing good ever made again or lost."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from stores import NOISE, REMARKS, content, digits_flow, fill, identity, missing, stamps, truncated
from tools import LinearField

from flowlit._support.files import file_hash, write_atomically
from flowlit.couplings import Cached, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.encoding import pack, restored, rounded
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.errors import FlowlitError
from flowlit.solvers import RK45, Euler
from flowlit.types import Pair

ORIGIN = FromNoise(NOISE)


def begin(folder, num=50, **changes):
    store = Store(folder)
    with store.writing():
        counts = store.counts(num)
        store.begin(identity(ORIGIN, counts, **changes), counts, REMARKS)


# files


def test_atomic_write_leaves_the_old_file_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(
                FlowlitError, match=r"cannot be written .*No space left.*run the same command again"
            ):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"some bytes" * 1000)
    assert file_hash(tmp_path / "file") == hashlib.sha256(b"some bytes" * 1000).hexdigest()


# what is written


def test_a_store_can_be_read_without_flowlit(tmp_path):
    fill(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    shards = [load_file(tmp_path / entry["file"]) for entry in manifest["shards"]]
    whole = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    assert whole["index"].tolist() == list(range(50)) and whole["label"].tolist() == [
        i % 4 for i in range(50)
    ]
    x0 = np.stack([NOISE[i].x0.numpy() for i in range(50)])
    assert np.array_equal(whole["x0"], x0)
    assert np.allclose(
        whole["x1"], Euler(2)(LinearField(), torch.from_numpy(x0)).x1.detach().numpy(), atol=1e-6
    )


def test_the_manifest_sums_up_what_the_shards_say(tmp_path):
    fill(tmp_path, solver=RK45())
    manifest = Store(tmp_path).manifest()
    with torch.no_grad():
        everything = RK45()(LinearField(), torch.stack([NOISE[i].x0 for i in range(50)]))
    assert manifest["complete"] and manifest["count"] == 50 and manifest["counts"] == [50]
    assert [entry["rows"] for entry in manifest["shards"]] == [20, 20, 10]
    assert [entry["index"] for entry in manifest["shards"]] == [[0, 19], [20, 39], [40, 49]]
    assert manifest["nfe"]["mean"] == pytest.approx(float(everything.nfe.float().mean()))
    assert [manifest["nfe"]["min"], manifest["nfe"]["max"]] == [
        int(everything.nfe.min()),
        int(everything.nfe.max()),
    ]
    assert manifest["range"] == pytest.approx(
        [float(everything.x1.min()), float(everything.x1.max())], abs=1e-3
    )
    for entry in manifest["shards"]:
        content = (tmp_path / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == entry["bytes"]
    assert manifest["teacher"] == {"sha256": "abc"} and manifest["seeds"] == [3]
    assert manifest["noise"]["generator"].startswith("numpy.random.Philox")


def as_stored(x, dtype):
    """Rounding, written a second time in NumPy."""
    if dtype == "uint8":
        return np.clip(np.rint(x.astype(np.float64) * 127.5 + 127.5), 0, 255) / 127.5 - 1
    return x.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("x1", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("x0", ["float32", "float16", "seed"])
def test_what_is_read_is_the_rounded_truth_and_the_manifest_says_how_far_off(x0, x1, tmp_path):
    truth = StoredPairs([fill(tmp_path / "truth")]).__getitems__(range(50))
    folder = fill(tmp_path / "store", x0=x0, x1=x1)
    stored = StoredPairs([folder]).__getitems__(range(50))
    assert (
        str(stored.x0.dtype) == f"torch.{'float32' if x0 == 'seed' else x0}"
        and str(stored.x1.dtype) == f"torch.{x1}"
    )
    rounding = Store(folder).manifest()["rounding"]
    for end, dtype in (("x0", "float32" if x0 == "seed" else x0), ("x1", x1)):
        true, found = (getattr(pair, end) for pair in (truth, stored))
        expected = as_stored(true.numpy(), dtype)
        assert np.allclose(restored(found).numpy(), expected, rtol=0, atol=2e-7)
        error = expected - true.double().numpy()
        assert rounding[end]["rms"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4, abs=1e-12)
        assert rounding[end]["max"] == pytest.approx(np.abs(error).max(), rel=1e-4, abs=1e-12)
        assert (rounding[end]["max"] == 0) == (dtype == "float32")
    assert torch.equal(stored.cond["label"], truth.cond["label"])
    if x0 != "float16":
        assert torch.equal(stored.x0, torch.stack([NOISE[i].x0 for i in range(50)])), "equal to the bit"


def test_noise_that_is_drawn_again_takes_no_space(tmp_path):
    sizes = {}
    for x0 in ("float32", "float16", "seed"):
        sizes[x0] = sum(
            len(shard)
            for name, shard in content(fill(tmp_path / x0, x0=x0)).items()
            if name != "manifest.json"
        )
    assert sizes["float32"] - sizes["float16"] == pytest.approx(50 * 16 * 2, abs=300)
    assert sizes["float32"] - sizes["seed"] == pytest.approx((50 - 3) * 16 * 4, abs=300), (
        "all but a probe per shard"
    )


def test_uint8_is_what_an_image_file_would_hold():
    x = torch.tensor([-1.5, -1, -0.999, 0, 0.5, 1, 7])
    assert rounded(x, "uint8").tolist() == [0, 0, 0, 128, 191, 255, 255]
    assert torch.equal(
        rounded(restored(torch.arange(256, dtype=torch.uint8)), "uint8"), torch.arange(256, dtype=torch.uint8)
    )


@pytest.mark.parametrize("end", ["x0", "x1"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pairs_that_are_not_finite_are_not_stored(end, value):
    pair = Pair(torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2))
    getattr(pair, end)[1, 0, 1, 1] = value
    with pytest.raises(FlowlitError, match="not finite"):
        pack(torch.arange(3), pair, torch.ones(3, dtype=torch.int64), 0, "float16", "float16")


# going on


def test_a_store_has_the_same_bytes_whoever_makes_it_and_when(tmp_path):
    fill(tmp_path / "a")
    fill(tmp_path / "b", shards=[2], finish=False)
    fill(tmp_path / "b", shards=[0, 1])
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_going_on_makes_only_what_is_missing(tmp_path):
    fill(tmp_path, shards=[2], finish=False)
    assert [shard.number for shard in Store(tmp_path).missing()] == [0, 1]
    before = stamps(tmp_path)
    fill(tmp_path)
    assert stamps(tmp_path)["00002.safetensors"] == before["00002.safetensors"]


def test_beginning_again_what_is_there_changes_nothing(tmp_path):
    fill(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"}
    begin(tmp_path)
    assert {
        path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != ".lock"
    } == before


@pytest.mark.parametrize("damage", [missing, truncated])
def test_a_damaged_shard_of_a_finished_store_is_made_again_and_no_other(damage, tmp_path):
    fill(tmp_path)
    before, times = content(tmp_path), stamps(tmp_path)
    damage(tmp_path / "00001.safetensors")
    begin(tmp_path)
    with pytest.raises(FlowlitError, match="not finished"):
        Cached(str(tmp_path)).dataset()
    fill(tmp_path)
    assert content(tmp_path) == before
    assert [name for name, time in stamps(tmp_path).items() if time != times[name]] == ["00001.safetensors"]


@pytest.mark.parametrize("damage", [missing, truncated])
def test_a_damaged_shard_of_an_unfinished_store_is_made_again_and_no_other(damage, tmp_path):
    fill(tmp_path / "whole")
    fill(tmp_path / "store", shards=[0, 1], finish=False)
    damage(tmp_path / "store/00000.safetensors")
    assert [shard.number for shard in Store(tmp_path / "store").missing()] == [0, 2]
    fill(tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_store_is_finished_only_with_all_shards(tmp_path):
    fill(tmp_path, shards=[0, 2], finish=False)
    with pytest.raises(FlowlitError, match=r"lacks 1 shards \(\[1\] …\); run the same command again"):
        Store(tmp_path).finish()
    with pytest.raises(FlowlitError, match=r"not finished \(30 of 50 pairs\)"):
        StoredPairs([tmp_path])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"seeds": [4]}, r"seeds: \[3\] there, \[4\] now"),
        ({"teacher": {"sha256": "other"}}, "teacher: sha256 abc there, sha256 other now"),
        ({"solver": {"class_path": "Heun"}}, "solver: class_path Euler there, class_path Heun now"),
        ({"x0": "seed"}, "x0: float32 there, seed now"),
        ({"x1": "uint8"}, "x1: float32 there, uint8 now"),
        ({"shape": [1, 8, 8]}, r"shape: \[1, 4, 4\] there, \[1, 8, 8\] now"),
        ({"labels": None}, "labels: num_classes 4, law balanced.* there, None now"),
        ({"shard_size": 10}, "shard_size: 20 there, 10 now"),
        ({"origin": "random"}, "origin: noise there, random now"),
    ],
    ids=str,
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_never_holds_two_kinds_of_pairs(finished, change, found, tmp_path):
    fill(tmp_path, shards=None if finished else [1], finish=finished)
    before = content(tmp_path)
    with pytest.raises(FlowlitError, match=rf"already holds other pairs \({found}\).*--store"):
        begin(tmp_path, **change)
    with pytest.raises(FlowlitError, match="already holds other pairs"):
        begin(tmp_path, num=80, **change)
    assert content(tmp_path) == before


# growing


@pytest.mark.parametrize("shard_size", [20, 7, 50])
def test_a_larger_num_adds_and_touches_nothing(shard_size, tmp_path):
    folder = fill(tmp_path, num=31, shard_size=shard_size)
    before, times = content(tmp_path), stamps(tmp_path)
    fill(tmp_path, num=50, shard_size=shard_size)
    fill(tmp_path, num=51, shard_size=shard_size)
    assert {name: time for name, time in stamps(tmp_path).items() if name in times} == times
    assert all(content(tmp_path)[name] == before[name] for name in times)
    assert Store(tmp_path).manifest()["counts"] == [31, 50, 51]
    pairs, whole = StoredPairs([folder]), StoredPairs([fill(tmp_path / "whole", num=51)])
    assert len(pairs) == 51
    for one, two in zip(pairs, whole, strict=True):
        assert torch.equal(one.x0, two.x0) and torch.equal(one.x1, two.x1) and one.cond == two.cond


def test_the_sums_of_a_grown_store_are_those_of_one_made_at_once(tmp_path):
    fill(tmp_path / "grown", x1="uint8", num=31)
    grown, whole = (Store(fill(tmp_path / name, x1="uint8")).manifest() for name in ("grown", "whole"))
    assert grown["rounding"]["x1"]["rms"] == pytest.approx(whole["rounding"]["x1"]["rms"])
    for key in ("count", "nfe", "range"):
        assert grown[key] == whole[key]


def test_a_store_that_was_not_finished_can_grow(tmp_path):
    fill(tmp_path, num=31, shards=[1], finish=False)
    assert len(StoredPairs([fill(tmp_path, num=50)])) == 50


def test_a_smaller_num_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(FlowlitError, match=r"is to hold, 50 pairs, and --num 30 would lose some.* limit"):
        fill(tmp_path, num=30)
    assert Store(tmp_path).manifest()["complete"]


# who writes


def test_two_writers_of_one_process_exclude_each_other(tmp_path):
    busy = pytest.raises(FlowlitError, match="another process is writing this store")
    with Store(tmp_path).writing(), busy, Store(tmp_path).writing():
        pass
    with Store(tmp_path).writing():
        pass


def test_the_lock_is_released_by_an_error(tmp_path):
    with pytest.raises(KeyError), Store(tmp_path).writing():
        raise KeyError
    with Store(tmp_path).writing():
        pass


def test_two_processes_exclude_each_other_until_one_dies(tmp_path):
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', "
        "flush=True); input()"
    )
    words = [sys.executable, "-c", hold, str(tmp_path / ".lock")]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        (tmp_path / ".00001.safetensors.1234.tmp").write_bytes(b"the other one's work")
        with pytest.raises(FlowlitError, match="another process is writing this store"):
            fill(tmp_path)
        assert (tmp_path / ".00001.safetensors.1234.tmp").exists()
    finally:
        other.kill()
        other.communicate()
    assert len(StoredPairs([fill(tmp_path)])) == 50


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path):
    fill(tmp_path, shards=[0], finish=False)
    for name in (".00001.safetensors.123.tmp", ".manifest.json.4f.tmp", ".x.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert [shard.number for shard in Store(tmp_path).missing()] == [1, 2], "half-written files are no shards"
    fill(tmp_path)
    assert (
        sorted(os.listdir(tmp_path)) == [".lock", *sorted(content(tmp_path))] and len(content(tmp_path)) == 4
    )


def test_reading_removes_nothing(tmp_path):
    fill(tmp_path)
    (tmp_path / ".x.tmp").write_bytes(b"half")
    StoredPairs([tmp_path])[0]
    assert (tmp_path / ".x.tmp").exists()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(FlowlitError, match="cannot be written"):
        fill(tmp_path / "store")


def test_a_disk_that_fills_up_leaves_a_store_that_goes_on(tmp_path, monkeypatch):
    fill(tmp_path / "whole")
    sync = os.fsync

    def full(fd):
        if "00001.safetensors" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(28, "No space left on device")
        sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            FlowlitError, match=r"00001.safetensors cannot be written .*No space left.*run the same command"
        ):
            fill(tmp_path / "store")
    assert sorted(os.listdir(tmp_path / "store")) == [".lock", "00000.safetensors", "manifest.json"]
    fill(tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_another_seed_is_another_store(tmp_path):
    one, two = (
        StoredPairs(
            [fill(tmp_path / str(seed), digits_flow(), origin=FromNoise(SeededNoise((1, 4, 4), 50, seed)))]
        )
        for seed in (3, 4)
    )
    assert not torch.equal(one[0].x0, two[0].x0)


def test_a_store_without_a_shard_may_become_another(tmp_path):
    fill(tmp_path, num=50, shards=[], finish=False)
    fill(tmp_path, num=30)
    assert len(StoredPairs([tmp_path])) == 30


def test_a_folder_of_other_safetensors_is_left_alone(tmp_path):
    (tmp_path / "model.safetensors").write_text("mine")
    with pytest.raises(FlowlitError, match=r"holds other files \(model.safetensors"):
        fill(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["model.safetensors"]
