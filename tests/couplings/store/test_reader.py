"""Reading stores: random access over a global index, and one clear error for whatever is wrong."""

import gc
import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
from matrix import few
from stores import DAMAGE, NOISE, digits_flow, edit_header, edit_manifest, edit_shard, fill, one_bit, trust
from tools import LinearField, named
from torch.utils.data import DataLoader

from flowlit.couplings import Cached, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store import reader as stored_module
from flowlit.couplings.store.checks import check_pairs
from flowlit.couplings.store.reader import StoredPairs
from flowlit.errors import FlowlitError
from flowlit.modules.evaluation import collate
from flowlit.solvers import Euler


def origin(seed, num=50, shape=(1, 4, 4), num_classes=4):
    return FromNoise(SeededNoise(shape, num, seed, num_classes))


def same(a, b):
    assert torch.equal(a.x0, b.x0) and torch.equal(a.x1, b.x1) and a.cond.keys() == b.cond.keys()
    assert all(torch.equal(a.cond[key], b.cond[key]) for key in a.cond)


def test_every_index_has_its_row(tmp_path):
    pairs = StoredPairs([fill(tmp_path)])
    assert len(pairs) == 50 and pairs.shape == (1, 4, 4)
    for i in (0, 19, 20, 49):
        noise, pair = NOISE[i], pairs[i]
        assert torch.equal(pair.x0, noise.x0) and torch.equal(pair.cond["label"], noise.cond["label"])
        assert torch.allclose(pair.x1, Euler(2)(LinearField(), noise.x0[None]).x1[0], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [{}, {"x0": "float16", "x1": "uint8"}, {"x0": "seed", "x1": "float16"}], ids=str
)
@pytest.mark.parametrize("classes", [0, 4])
def test_a_batch_is_its_rows(kind, classes, tmp_path):
    pairs = StoredPairs([fill(tmp_path, digits_flow(), origin=origin(3, num_classes=classes), **kind)])
    indices = [49, 0, 20, 19, 20, 40]
    whole, rows = pairs.__getitems__(indices), [pairs[i] for i in indices]
    assert torch.equal(whole.x0, torch.stack([row.x0 for row in rows]))
    assert torch.equal(whole.x1, torch.stack([row.x1 for row in rows]))
    assert whole.cond.keys() == ({"label"} if classes else set())
    if classes:
        assert (
            whole.cond["label"].tolist()
            == [i % 4 for i in indices]
            == [int(row.cond["label"]) for row in rows]
        )


@pytest.mark.parametrize("index", [50, -1, 10**12])
def test_rows_that_are_not_there(index, tmp_path):
    pairs = StoredPairs([fill(tmp_path)])
    with pytest.raises(IndexError, match="of 50"):
        pairs[index]
    with pytest.raises(IndexError, match="of 50"):
        pairs.__getitems__([0, index])


def test_the_limit_takes_the_first_pairs(tmp_path):
    data = Cached(fill(tmp_path), limit=30).dataset()
    assert len(data) == 30 and len(list(data)) == 30
    with pytest.raises(IndexError):
        data[30]


@pytest.mark.parametrize(
    ("limit", "message"),
    [(51, r"limit is 51, but it holds 50 pairs.*--num 51"), (0, "limit is 0"), (-3, "limit is -3")],
)
def test_limits_that_make_no_sense(limit, message, tmp_path):
    store = fill(tmp_path)
    with pytest.raises(FlowlitError, match=message):
        Cached(store, limit=limit).dataset()


# workers and open files


@pytest.mark.parametrize("x0", few(["float32", "seed"], 1))
def test_workers_read_the_same_pairs(x0, tmp_path):
    pairs = StoredPairs([fill(tmp_path, x0=x0)])
    whole = pairs.__getitems__(range(50))
    for context in ("fork", "spawn") if x0 == "seed" else ("fork",):
        batches = list(
            DataLoader(pairs, 7, num_workers=2, collate_fn=collate, multiprocessing_context=context)
        )
        assert [len(batch.x0) for batch in batches] == [7] * 7 + [1]
        assert torch.equal(torch.cat([batch.x0 for batch in batches]), whole.x0)
        assert torch.equal(torch.cat([batch.x1 for batch in batches]), whole.x1)


def test_a_pickled_store_is_small_and_opens_its_own_files(tmp_path):
    pairs = StoredPairs([fill(tmp_path)], limit=40)
    pairs[0]
    copy = pickle.loads(pickle.dumps(pairs))
    assert len(pickle.dumps(pairs)) < 8000 and len(copy) == 40
    same(copy.__getitems__(range(40)), pairs.__getitems__(range(40)))


def open_shards(folder):
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sum(link.startswith(str(folder)) for link in links)


def test_a_store_of_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_module, "OPEN_FILES", 2)
    pairs = StoredPairs([fill(tmp_path / "many", shard_size=3)])
    whole = StoredPairs([fill(tmp_path / "few", shard_size=50)])
    order = np.random.default_rng(0).permutation(50).tolist()
    same(pairs.__getitems__(order), whole.__getitems__(order))
    assert open_shards(tmp_path / "many") == 2
    del pairs
    gc.collect()
    assert open_shards(tmp_path / "many") == 0


def test_files_are_opened_only_when_needed(tmp_path):
    pairs = StoredPairs([fill(tmp_path)])
    assert open_shards(tmp_path) == 0
    pairs[25]
    assert open_shards(tmp_path) == 1


def test_a_shard_is_verified_once(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("flowlit.couplings.store.shard.file_hash", lambda path: hashed.append(path.name))
    pairs = StoredPairs([fill(tmp_path)], checksums=False)
    pairs.__getitems__(range(50))
    assert not hashed
    edit_manifest(tmp_path, lambda manifest: [entry.update(sha256="0" * 64) for entry in manifest["shards"]])
    monkeypatch.setattr(
        "flowlit.couplings.store.shard.file_hash", lambda path: hashed.append(path.name) or "a" * 64
    )
    edit_manifest(tmp_path, lambda manifest: [entry.update(sha256="a" * 64) for entry in manifest["shards"]])
    pairs = StoredPairs([tmp_path])
    for _ in range(3):
        pairs.__getitems__(range(50))
    assert hashed == ["00000.safetensors", "00001.safetensors", "00002.safetensors"]


# several stores


def test_several_stores_are_read_as_one(tmp_path):
    stores = [
        fill(tmp_path / "a"),
        fill(tmp_path / "b", origin=origin(4), num=33, shard_size=7),
        fill(tmp_path / "c", origin=origin(5), num=5),
    ]
    pairs, parts = StoredPairs(stores), [StoredPairs([store]) for store in stores]
    assert len(pairs) == 88
    rows = [row for part in parts for row in part]
    for i in (0, 49, 50, 56, 57, 82, 83, 87):
        same(pairs[i], rows[i])
    order = np.random.default_rng(0).permutation(88).tolist()
    assert torch.equal(pairs.__getitems__(order).x1, torch.stack([rows[i].x1 for i in order]))
    assert len(StoredPairs(stores, limit=60)) == 60 and len(Cached(stores).dataset()) == 88
    same(StoredPairs(stores[::-1])[0], parts[2][0])


def test_each_store_draws_the_noise_of_its_own_seed(tmp_path):
    stores = [fill(tmp_path / str(seed), origin=origin(seed), x0="seed") for seed in (3, 4)]
    pairs = StoredPairs(stores).__getitems__([49, 50, 0, 99])
    expected = [SeededNoise((1, 4, 4), 50, seed)[i].x0 for seed, i in ((3, 49), (4, 0), (3, 0), (4, 49))]
    assert torch.equal(pairs.x0, torch.stack(expected))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"teacher_hash": "other"}, "teacher: sha256 abc in the first, sha256 other in this one"),
        ({"x1": "uint8"}, "x1: float32 in the first, uint8 in this one"),
        ({"x0": "seed"}, "x0: float32 in the first, seed in this one"),
        ({"origin": origin(4, shape=(1, 2, 2))}, "shape: "),
        ({"origin": origin(4, num_classes=0)}, "labels: "),
        ({"solver_name": "Heun"}, "solver: "),
    ],
    ids=["teacher", "x1", "x0", "shape", "labels", "solver"],
)
def test_stores_that_are_no_parts_of_one_set(arguments, found, tmp_path):
    one, two = (
        fill(tmp_path / "one"),
        fill(tmp_path / "two", **{"origin": origin(4), **only(arguments, "origin", "x0", "x1")}),
    )
    for key, name in (("teacher_hash", "sha256"), ("solver_name", "class_path")):
        if key in arguments:
            fact = {key.split("_")[0]: {name: arguments[key]}}
            edit_manifest(tmp_path / "two", lambda manifest, fact=fact: manifest.update(fact))
    with pytest.raises(FlowlitError, match=rf"two holds other pairs than .*one \({re.escape(found)}"):
        StoredPairs([one, two])


def only(arguments, *keys):
    return {key: value for key, value in arguments.items() if key in keys}


def test_stores_that_repeat_noise_are_refused(tmp_path):
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two", num=30, shard_size=7)
    for stores in ([one, two], [two, one], [one, one]):
        with pytest.raises(FlowlitError, match=r"hold the same pairs \(seed 3, indices .*another --seed"):
            StoredPairs(stores)


def test_an_unfinished_store_among_several_is_named(tmp_path):
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two", origin=origin(4), shards=[0], finish=False)
    with pytest.raises(FlowlitError, match=r"two is not finished \(20 of 50 pairs\)"):
        StoredPairs([one, two])


# damage


@pytest.mark.parametrize("x0", ["float32", "seed"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_one_clear_error_and_the_others_can_be_read(damage, x0, tmp_path):
    pairs = StoredPairs([fill(tmp_path, x0=x0)])
    whole = pairs.__getitems__([0, 19, 40, 49])
    damage(tmp_path / "00001.safetensors")
    pairs = StoredPairs([tmp_path])
    same(pairs.__getitems__([0, 19, 40, 49]), whole)
    for _ in range(2):  # what failed once must not be taken for good later
        with pytest.raises(
            FlowlitError, match=r"shard .*00001.safetensors is missing or corrupt.*only this shard"
        ):
            pairs[25]
    same(pairs.__getitems__([0, 19, 40, 49]), whole)


@pytest.mark.parametrize("place", [3, 8, 20, 300, 1000, 1700, 2500, -1])
def test_one_flipped_bit_is_found_wherever_it_is(place, tmp_path):
    fill(tmp_path)
    one_bit(tmp_path / "00001.safetensors", place)
    with pytest.raises(FlowlitError, match=r"00001.safetensors is missing or corrupt"):
        StoredPairs([tmp_path])[20]


@pytest.mark.parametrize("damage", [damage for damage in DAMAGE if damage is not one_bit])
def test_damage_is_found_without_checksums_too(damage, tmp_path):
    fill(tmp_path)
    damage(tmp_path / "00001.safetensors")
    with pytest.raises(FlowlitError, match=r"00001.safetensors is missing or corrupt"):
        StoredPairs([tmp_path], checksums=False)[20]


def test_a_shard_that_shrinks_while_it_is_read(tmp_path):
    pairs = StoredPairs([fill(tmp_path)])
    pairs[0]
    os.truncate(tmp_path / "00000.safetensors", 700)
    with pytest.raises(FlowlitError, match=r"00000.safetensors is missing or corrupt .*ends too early"):
        pairs.__getitems__(range(20))


def set_field(name, **changes):
    return lambda header: header[name].update(changes)


def end_of_x1(header):
    header["x1"]["data_offsets"][1] += 4


@pytest.mark.parametrize(
    "lie",
    [
        set_field("x1", shape=[20, 4, 4]),
        set_field("x1", shape=[10, 2, 4, 4]),
        set_field("x1", shape=[]),
        set_field("x1", shape=None),
        set_field("x1", shape=["20", 1, 4, 4]),
        set_field("x1", shape=[-20, -1, 4, 4]),
        set_field("x1", dtype="I32"),
        set_field("x1", dtype="U8"),
        set_field("x1", data_offsets=[0]),
        set_field("x1", data_offsets=None),
        set_field("x1", data_offsets=[10**18, 10**18 + 1280]),
        set_field("label", shape=[20, 1]),
        set_field("index", dtype="F32"),
        end_of_x1,
        lambda header: header.pop("x1") and None,
        lambda header: header.pop("label") and None,
        lambda header: header.clear(),
        lambda header: [1, 2],
        lambda header: "text",
        lambda header: {**header, "x1": 3},
    ],
    ids=named,
)
def test_a_header_that_lies(lie, tmp_path):
    fill(tmp_path)
    edit_header(tmp_path / "00001.safetensors", lie)
    with pytest.raises(FlowlitError, match=r"00001.safetensors is missing or corrupt"):
        StoredPairs([tmp_path])[20]


def test_a_shard_of_another_shape_than_the_manifest(tmp_path):
    fill(tmp_path / "other", origin=origin(3, shape=(1, 8, 8)))
    fill(tmp_path / "store")
    (tmp_path / "store/00001.safetensors").write_bytes((tmp_path / "other/00001.safetensors").read_bytes())
    trust(tmp_path / "store")
    with pytest.raises(
        FlowlitError, match=r"x1 is float32 \(20, 1, 8, 8\), the manifest says float32 \(20, 1, 4, 4\)"
    ):
        StoredPairs([tmp_path / "store"])[20]


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    fill(tmp_path / "store")
    os.replace(tmp_path / "store/00000.safetensors", tmp_path / "secret.safetensors")
    edit_manifest(
        tmp_path / "store", lambda manifest: manifest["shards"][0].update(file="../secret.safetensors")
    )
    with pytest.raises(FlowlitError, match=f"{tmp_path}/store/manifest.json .*file: Expected str matching"):
        StoredPairs([tmp_path / "store"])[0]


# noise drawn again


def test_noise_that_this_machine_draws_differently_is_refused(tmp_path):
    fill(tmp_path, x0="seed")

    def other_noise(arrays):
        arrays["probe"][0, 0, 1, 1] += 1e-4

    edit_shard(tmp_path / "00001.safetensors", other_noise)
    pairs = StoredPairs([tmp_path])
    assert torch.equal(pairs[0].x0, NOISE[0].x0), "the other shards can be read"
    with pytest.raises(
        FlowlitError, match=r"00001.safetensors: seed 3 gives other noise here.*cannot be drawn again.*--x0"
    ):
        pairs[20]


def test_another_generator_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, x0="seed")
    other = np.random.Philox(key=99).state
    monkeypatch.setattr("flowlit.couplings.noise._state", lambda seed, index: other)
    with pytest.raises(FlowlitError, match="gives other noise here"):
        Cached(str(tmp_path)).dataset()


def test_the_last_bit_of_the_noise_may_differ(tmp_path):
    fill(tmp_path, x0="seed")
    edit_shard(
        tmp_path / "00000.safetensors",
        lambda arrays: arrays.update(probe=np.nextafter(arrays["probe"], np.float32(9))),
    )
    assert torch.equal(StoredPairs([tmp_path])[0].x0, NOISE[0].x0)


@pytest.mark.parametrize(
    "probe",
    [
        np.zeros((1, 1, 4, 4), np.float32),
        np.full((1, 1, 4, 4), np.nan, np.float32),
        np.zeros((1, 3), np.float32),
        None,
    ],
)
def test_a_probe_that_is_none(probe, tmp_path):
    fill(tmp_path, x0="seed")
    edit_shard(
        tmp_path / "00000.safetensors",
        lambda arrays: arrays.pop("probe") if probe is None else arrays.update(probe=probe),
    )
    with pytest.raises(FlowlitError, match=r"shard .*00000.safetensors"):
        StoredPairs([tmp_path])[0]


# checks of pairs


def test_good_pairs_pass():
    check_pairs(torch.randn(500, 1, 8, 8), torch.randn(500, 1, 8, 8).tanh(), "here")
    check_pairs(
        torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(4, 1, 2, 2),
        "a tiny store",
    )


@pytest.mark.parametrize(
    "x0",
    [
        0.5 * torch.randn(100, 64),
        1 + torch.randn(100, 64),
        torch.zeros(100, 64),
        torch.full((100, 64), torch.nan),
    ],
)
def test_noise_that_is_no_noise_is_found(x0):
    with pytest.raises(FlowlitError, match=r"here: x0 has mean .* expected 0 and 1"):
        check_pairs(x0, torch.rand(100, 64), "here")


def test_broken_data_is_found():
    x1 = torch.rand(100, 64)
    x1[3, 4] = torch.inf
    with pytest.raises(FlowlitError, match="x1 is not finite"):
        check_pairs(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), x1, "here")


@pytest.mark.parametrize("kind", [{}, {"x0": "float16", "x1": "uint8"}], ids=str)
def test_swapped_ends_are_found(kind, tmp_path):
    fill(tmp_path, digits_flow(), **kind)
    for path in tmp_path.glob("*.safetensors"):
        edit_shard(
            path, lambda a: a.update(x0=a["x1"].astype(a["x0"].dtype), x1=a["x0"].astype(a["x1"].dtype))
        )
    with pytest.raises(FlowlitError, match=r"x0 has mean .* expected 0 and 1"):
        Cached(str(tmp_path)).dataset()


def test_swapped_ends_are_called_so(tmp_path):
    fill(tmp_path, digits_flow())
    for path in tmp_path.glob("*.safetensors"):
        edit_shard(path, lambda arrays: arrays.update(x0=arrays["x1"], x1=arrays["x0"]))
    with pytest.raises(FlowlitError, match="the ends seem swapped: x0 is noise, x1 is data"):
        Cached(str(tmp_path)).dataset()


def test_a_store_in_the_other_direction_is_refused(tmp_path):
    fill(tmp_path)
    edit_manifest(tmp_path, lambda manifest: manifest.update(direction="x0 is data, x1 is noise"))
    with pytest.raises(FlowlitError, match=r"direction of the pairs is 'x0 is data, x1 is noise'"):
        Cached(str(tmp_path)).dataset()
    assert json.loads((tmp_path / "manifest.json").read_text())["complete"]
