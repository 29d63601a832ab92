"""Several stores as one on disk."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import stores
import torch
from suspects import edit, fill, noise_origin, wrong

from flowlit.couplings.store.merge import merge
from flowlit.couplings.store.reader import StoredPairs
from flowlit.errors import FlowlitError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for seed, num in enumerate((70, 30, 45)):
        fill(root / str(seed), num, noise_origin(num, seed, classes=5), shard_size=20)
    return root


@pytest.fixture
def parts(made, tmp_path):
    """Stores of 70, 30 and 45 pairs, in shards of 20."""
    shutil.copytree(made, tmp_path / "parts")
    return [tmp_path / f"parts/{seed}" for seed in range(3)]


def rows(*folders):
    pairs = StoredPairs(folders)
    pair = pairs.__getitems__(range(len(pairs)))
    return pair.x0, pair.x1, pair.cond["label"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fail(*_, **__):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def only_shards_and_manifest(folder):
    return {path.name for path in folder.iterdir()} <= {"manifest.json", ".lock"} | set(stores.stamps(folder))


def test_rows_follow_each_other_in_the_order_given(parts, tmp_path):
    for name, order in (("a", parts), ("b", parts[::-1])):
        merge(order, tmp_path / name)
        assert same(rows(tmp_path / name), rows(*order))
    apart = [torch.cat(ends) for ends in zip(*(rows(part) for part in parts), strict=True)]
    assert same(rows(tmp_path / "a"), apart)


def test_single_rows_are_found_across_the_borders(parts, tmp_path):
    merge(parts, tmp_path / "all")
    pairs, (x0, x1, label) = StoredPairs([tmp_path / "all"]), rows(*parts)
    for i in (0, 69, 70, 99, 100, 144):
        assert same((pairs[i].x0, pairs[i].x1, pairs[i].cond["label"]), (x0[i], x1[i], label[i]))


def test_the_manifest_sums_up_its_parts(parts, tmp_path):
    returned = merge(parts, tmp_path / "all")
    manifest = json.loads((tmp_path / "all/manifest.json").read_text())
    assert manifest == json.loads(json.dumps(returned))
    assert manifest["complete"] and manifest["count"] == 145 and manifest["counts"][-1] == 145
    assert manifest["seeds"] == [0, 1, 2] and manifest["merged"] == [str(part) for part in parts]
    assert [entry["rows"] for entry in manifest["shards"]] == [20, 20, 20, 10, 20, 10, 20, 20, 5]
    alone = [json.loads((part / "manifest.json").read_text()) for part in parts]
    assert manifest["range"] == [min(m["range"][0] for m in alone), max(m["range"][1] for m in alone)]
    squares = sum(m["rounding"]["x1"]["rms"] ** 2 * m["count"] for m in alone)
    assert manifest["rounding"]["x1"]["rms"] == pytest.approx((squares / 145) ** 0.5)
    assert manifest["nfe"] == {"mean": 7.0, "min": 7, "max": 7}
    for key in ("teacher", "solver", "labels", "shape", "x0", "x1", "origin", "noise"):
        assert manifest[key] == alone[0][key]


def test_a_merged_store_is_sound_and_merges_again(parts, tmp_path):
    merge(parts[:2], tmp_path / "two")
    merge([tmp_path / "two", parts[2]], tmp_path / "three")
    assert wrong(tmp_path / "two") == wrong(tmp_path / "three") == {}
    assert same(rows(tmp_path / "three"), rows(*parts))


def test_noise_that_is_drawn_again_keeps_its_seeds(tmp_path):
    parts = [fill(tmp_path / str(seed), 30, noise_origin(30, seed, classes=5), x0="seed") for seed in (4, 2)]
    merge(parts, tmp_path / "both")
    assert same(rows(tmp_path / "both"), rows(*parts)) and wrong(tmp_path / "both") == {}


def test_other_shard_sizes_may_be_merged(parts, tmp_path):
    fill(tmp_path / "wide", 64, noise_origin(64, 9, classes=5), shard_size=64)
    merge([*parts, tmp_path / "wide"], tmp_path / "all")
    assert same(rows(tmp_path / "all"), rows(*parts, tmp_path / "wide")) and wrong(tmp_path / "all") == {}


def test_a_merged_store_outlives_its_parts(parts, tmp_path):
    before = rows(*parts)
    merge(parts, tmp_path / "all")
    linked = [path.stat().st_nlink for path in (tmp_path / "all").glob("*.safetensors")]
    assert linked == [2] * 9, "nothing was copied"
    for part in parts:
        shutil.rmtree(part)
    assert same(rows(tmp_path / "all"), before) and wrong(tmp_path / "all") == {}


def test_the_parts_are_left_as_they_were(parts, tmp_path):
    before = [stores.content(part) for part in parts]
    merge(parts, tmp_path / "all")
    assert [stores.content(part) for part in parts] == before


def test_on_another_disk_shards_are_copied(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail)
    merge(parts, tmp_path / "all")
    assert [path.stat().st_nlink for path in (tmp_path / "all").glob("*.safetensors")] == [1] * 9
    assert same(rows(tmp_path / "all"), rows(*parts)) and only_shards_and_manifest(tmp_path / "all")


@pytest.mark.parametrize("after", [0, 3, 8])
@pytest.mark.parametrize("linking", [True, False], ids=["linked", "copied"])
def test_an_interrupted_merge_leaves_nothing_and_can_be_repeated(
    parts, tmp_path, monkeypatch, after, linking
):
    link, done, before = os.link, [], [stores.content(part) for part in parts]

    def killed(*paths):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(paths)
        link(*paths) if linking else fail()

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(parts, tmp_path / "all")
    assert not (tmp_path / "all").exists() and not (tmp_path / ".all.tmp").exists()
    merge(parts, tmp_path / "all")
    assert same(rows(tmp_path / "all"), rows(*parts))
    assert [stores.content(part) for part in parts] == before


def test_merging_into_a_folder_of_other_files_touches_none(parts, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(FlowlitError, match="exists already"):
        merge(parts, tmp_path / "work")
    assert (tmp_path / "work" / "model.safetensors").read_bytes() == b"precious"


def test_a_full_disk_is_one_error_and_leaves_no_manifest(parts, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(FlowlitError, match="No space left on device"):
        merge(parts, tmp_path / "all")
    assert not (tmp_path / "all/manifest.json").exists()


# what is refused


def refused(parts, into, match):
    with pytest.raises(FlowlitError, match=match):
        merge(parts, into)
    assert not (into / "manifest.json").exists() and not stores.stamps(into)


def test_the_same_noise_twice_is_refused(parts, tmp_path):
    refused([parts[0], parts[0]], tmp_path / "all", "the same pairs")
    fill(tmp_path / "again", 20, noise_origin(20, 1, classes=5), shard_size=20)
    refused([*parts, tmp_path / "again"], tmp_path / "all", r"hold the same pairs \(seed 1, indices 0 … 19\)")


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("teacher", {"teacher": {"sha256": "another"}}),
        ("solver", {"solver": {"class_path": "RK45"}}),
        ("x0", {"x0": "float32"}),
        ("x1", {"x1": "uint8"}),
        ("shape", {"shape": (3, 8, 8)}),
        ("labels", {"classes": 0}),
        ("labels", {"classes": 6}),
    ],
    ids=str,
)
def test_pairs_of_another_kind_are_refused(parts, tmp_path, key, settings):
    settings = {"shape": (1, 8, 8), "classes": 5, **settings}
    origin = noise_origin(30, 7, settings.pop("classes"), shape=settings.pop("shape"))
    identity = {name: settings.pop(name) for name in ("teacher", "solver") if name in settings}
    other = edit(fill(tmp_path / "other", 30, origin, **settings), **identity)
    refused([*parts, other], tmp_path / "all", f"other holds other pairs than .*{key}: ")


def test_unfinished_parts_are_refused(parts, tmp_path):
    fill(tmp_path / "half", 60, noise_origin(60, 8, classes=5), shard_size=20, shards=[0], finish=False)
    refused([*parts, tmp_path / "half"], tmp_path / "all", r"half is not finished \(20 of 60 pairs\)")


def test_missing_parts_are_refused(parts, tmp_path):
    refused([*parts, tmp_path / "nothing"], tmp_path / "all", "no couplings in .*nothing")


@pytest.mark.parametrize("damage", [stores.missing, stores.truncated, stores.emptied])
def test_parts_without_all_their_files_are_refused(parts, tmp_path, damage):
    damage(parts[1] / "00001.safetensors")
    with pytest.raises(
        FlowlitError, match=r"1/00001.safetensors is missing or truncated.*flowlit couplings verify"
    ):
        merge(parts, tmp_path / "all")
    assert not (tmp_path / "all/manifest.json").exists()


def test_a_store_that_is_there_already_is_not_touched(parts, tmp_path):
    before = stores.content(parts[2])
    with pytest.raises(FlowlitError, match="exists already"):
        merge(parts[:2], parts[2])
    assert stores.content(parts[2]) == before


def test_merging_by_command(cli, parts, tmp_path):
    done = cli("couplings", "merge", *parts, "--into", tmp_path / "all")
    assert done.code == 0 and "145 pairs of 3 stores" in done.out
    assert np.array_equal(rows(tmp_path / "all")[2], rows(*parts)[2])
    assert "exists already" in cli("couplings", "merge", *parts, "--into", tmp_path / "all").error
