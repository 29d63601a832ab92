import copy
import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tools import GOLDEN, LinearField, randomise, tiny_unet
from torch.utils.data import DataLoader, default_collate

from flowlit.codecs import Pixels
from flowlit.couplings import (
    Cached,
    Independent,
    NoiseShards,
    SeededNoise,
    Simulated,
    Store,
    StoredPairs,
    flip,
    random_flip,
    seeded_normal,
)
from flowlit.couplings.store import check_pairs, write_atomically
from flowlit.images import Digits
from flowlit.networks import EmpiricalFlow
from flowlit.solvers import RK45, SDE, Euler
from flowlit.types import FlowlitError, Pair

CPU = torch.device("cpu")


# noise


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
    assert batch.cond["label"].tolist() == [i % 10 for i in range(25)] and batch.cond["label"].dtype == torch.int64
    assert batch.index.tolist() == list(range(25))
    assert SeededNoise((1, 2, 2), 3)[0].cond == {}


@pytest.mark.parametrize("skip", [(), (0,), (1,), (0, 2)], ids=str)
def test_shards_have_the_same_content_whatever_is_skipped(skip):
    noise = SeededNoise((1, 2, 2), 23, seed=1, num_classes=3)
    everything, some = NoiseShards(noise, 10, 4), NoiseShards(noise, 10, 4, skip)
    assert some.numbers == [number for number in range(3) if number not in skip] and len(some) == len(some.numbers)
    for item, number in enumerate(some.numbers):
        for ours, theirs in zip(some[item], everything[number], strict=True):
            assert torch.equal(ours.x0, theirs.x0) and torch.equal(ours.index, theirs.index)


def test_shards_cover_every_index_once_and_never_mix():
    shards = NoiseShards(SeededNoise((1, 2, 2), 23), 10, 4)
    indices = [[n.index.tolist() for n in shards[k]] for k in range(3)]
    assert indices == [
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]],
        [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19]],
        [[20, 21, 22]],
    ]


@pytest.mark.parametrize(("shard_size", "batch_size"), [(0, 4), (10, 0), (-1, 4)])
def test_shards_need_positive_sizes(shard_size, batch_size):
    with pytest.raises(FlowlitError, match=f"shard_size={shard_size}, batch_size={batch_size}"):
        NoiseShards(SeededNoise((1, 2, 2), 23), shard_size, batch_size)


# flips


def aligned_pair(batch=200):
    """x1 is a function of x0, pixel by pixel, and the label tells the sample."""
    x0 = torch.randn(batch, 2, 3, 4)
    return Pair(x0, 2 * x0 + 1, {"label": torch.arange(batch)})


def test_flip_mirrors_both_ends_of_the_chosen_samples_along_the_width():
    pair = aligned_pair(3)
    flipped = flip(pair, torch.tensor([True, False, True]))
    for i, mirrored in enumerate([True, False, True]):
        assert torch.equal(flipped.x0[i], pair.x0[i].flip(2) if mirrored else pair.x0[i])
        assert torch.equal(flipped.x1[i], pair.x1[i].flip(2) if mirrored else pair.x1[i])
    assert torch.equal(flipped.cond["label"], pair.cond["label"])


def test_random_flip_throws_a_coin_per_sample_and_keeps_pairs_aligned():
    torch.manual_seed(0)
    pair = aligned_pair()
    flipped = random_flip(pair)
    assert torch.equal(flipped.x1, 2 * flipped.x0 + 1)
    changed = (flipped.x0 != pair.x0).flatten(1).any(1)
    assert 0.35 < float(changed.float().mean()) < 0.65
    assert torch.equal(flipped.x0[changed], pair.x0[changed].flip(-1))


# independent


def test_independent_pairs_images_with_noise_of_the_moment():
    coupling = Independent(Digits(limit=64))
    batch = default_collate([coupling.dataset()[i] for i in range(64)])
    one, two = (coupling.complete(batch, CPU) for _ in range(2))
    assert torch.equal(one.x1, batch["x1"].float() / 127.5 - 1) and torch.equal(one.cond["label"], batch["cond"]["label"])
    assert not torch.equal(one.x0, two.x0) and one.x0.shape == one.x1.shape
    assert float(one.x0.std()) == pytest.approx(1, abs=0.05) and abs(float(one.x0.mean())) < 0.05


def test_independent_flips_images_if_asked():
    batch = {"x1": Digits(limit=64).data[0], "cond": {}}
    plain = Pixels().encode(batch["x1"])
    x1 = Independent(Digits(), flip=True).complete(batch, CPU).x1
    mirrored = (x1 == plain.flip(-1)).flatten(1).all(1)
    assert (mirrored | (x1 == plain).flatten(1).all(1)).all() and 10 < mirrored.sum() < 54
    assert torch.equal(Independent(Digits()).complete(batch, CPU).x1, plain)


def test_independent_notices_missing_images_when_it_opens_them(tmp_path):
    from flowlit.images import ImageFolder

    coupling = Independent(ImageFolder(str(tmp_path / "nowhere")))
    with pytest.raises(FlowlitError, match="does not exist"):
        coupling.dataset()


# stores


NOISE = SeededNoise((1, 4, 4), 50, seed=3, num_classes=4)
IDENTITY = {"count": 50, "shape": [1, 4, 4], "seed": 3, "shard_size": 20, "num_classes": 4, "teacher": {"sha256": "abc"}}


def fill(folder, teacher=None, solver=None, shards=(0, 1, 2), noise=NOISE, finish=True, identity=IDENTITY, dtype=torch.float32):
    """Make a store as ``flowlit couple`` does, without Lightning."""
    store = Store(folder)
    store.begin(identity)
    teacher, solver = teacher or LinearField(), solver or Euler(2)
    everything = NoiseShards(noise, 20, 8)
    for number in shards:
        parts = everything[number]
        solved = [solver(teacher, n.x0, n.cond) for n in parts]
        tensors = {
            "index": torch.cat([n.index for n in parts]),
            "x0": torch.cat([n.x0 for n in parts]).to(dtype),
            "x1": torch.cat([s.x1 for s in solved]).detach().to(dtype),
            **{key: torch.cat([n.cond[key] for n in parts]) for key in parts[0].cond},
        }
        store.write_shard(number, tensors, torch.cat([s.nfe for s in solved]))
    if finish:
        store.finish()
    return str(folder)


def test_store_maps_every_index_to_its_row(tmp_path):
    pairs = StoredPairs(Store(fill(tmp_path)))
    assert len(pairs) == 50
    for i in (0, 19, 20, 49):
        noise, pair = NOISE[i], pairs[i]
        assert torch.equal(pair.x0, noise.x0) and pair.cond["label"] == noise.cond["label"]
        assert torch.allclose(pair.x1, Euler(2)(LinearField(), noise.x0[None]).x1[0], atol=1e-6)


def test_manifest_sums_up_what_the_shards_say(tmp_path):
    store = Store(fill(tmp_path, solver=RK45()))
    manifest = store.manifest()
    with torch.no_grad():
        everything = RK45()(LinearField(), torch.stack([NOISE[i].x0 for i in range(50)]))
    assert manifest["complete"] and [e["rows"] for e in manifest["shards"]] == [20, 20, 10]
    assert manifest["nfe"]["mean"] == pytest.approx(float(everything.nfe.float().mean()))
    assert manifest["nfe"]["max"] == int(everything.nfe.max())
    assert manifest["range"] == pytest.approx([float(everything.x1.min()), float(everything.x1.max())], abs=1e-3)
    for entry in manifest["shards"]:
        assert hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["teacher"] == {"sha256": "abc"}


def test_a_shard_has_the_same_bytes_whoever_makes_it_and_when(tmp_path):
    fill(tmp_path / "a", shards=(0, 1, 2))
    fill(tmp_path / "b", shards=(2,), finish=False)
    fill(tmp_path / "b", shards=(1, 0))
    assert [
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in sorted(os.listdir(tmp_path / "a"))
    ] == [True] * 4


def test_store_refuses_other_pairs_in_the_same_folder(tmp_path):
    fill(tmp_path)
    Store(tmp_path).begin(IDENTITY)
    assert Store(tmp_path).manifest()["complete"], "beginning again what is there changes nothing"
    with pytest.raises(FlowlitError, match=r"already holds other pairs \(seed: 3 there, 4 now\).*--store"):
        Store(tmp_path).begin({**IDENTITY, "seed": 4})


def test_store_is_finished_only_with_all_shards(tmp_path):
    fill(tmp_path, shards=(0, 2), finish=False)
    assert Store(tmp_path).finished_shards() == [0, 2]
    with pytest.raises(FlowlitError, match=r"lacks shards \[1\] of 3; run the same command again"):
        Store(tmp_path).finish()
    with pytest.raises(FlowlitError, match=r"not finished \(40 of 50 pairs\)"):
        StoredPairs(Store(tmp_path))


def test_store_that_is_not_there(tmp_path):
    with pytest.raises(FlowlitError, match=r"no couplings in .*nowhere.*flowlit couple -c"):
        Cached(str(tmp_path / "nowhere")).dataset()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"format": "zarr", "version": 1}', "is zarr version 1"),
        ('{"format": "flowlit-couplings", "version": 9}', "version 9"),
    ],
)
def test_manifest_that_cannot_be_read(content, message, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FlowlitError, match=message):
        Store(tmp_path).manifest()


def missing(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(os.urandom(1000))


def of_another_kind(path):
    save_file({"something": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [missing, truncated, emptied, garbage, of_another_kind])
def test_damaged_shards(damage, tmp_path):
    fill(tmp_path)
    damage(tmp_path / "00001.safetensors")
    pairs = StoredPairs(Store(tmp_path))
    assert pairs[0].x0.shape == (1, 4, 4), "the other shards can still be read"
    with pytest.raises(FlowlitError, match=r"shard .*00001.safetensors is missing or corrupt.*only this shard"):
        pairs[25]
    if damage is not missing:
        with pytest.raises(FlowlitError, match=r"00001.safetensors is missing or corrupt"):
            Store(tmp_path).finish()


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    fill(tmp_path / "store")
    save_file({"x0": torch.zeros(1), "x1": torch.zeros(1)}, tmp_path / "secret.safetensors")
    with pytest.raises(FlowlitError, match=f"shard {tmp_path}/store/secret.safetensors is missing"):
        Store(tmp_path / "store").load_shard("../secret.safetensors")


@pytest.mark.parametrize(
    ("limit", "message"), [(51, r"limit is 51, but it holds 50 pairs.*--num 51"), (0, "limit is 0"), (-3, "limit is -3")]
)
def test_limits_that_make_no_sense(limit, message, tmp_path):
    store = fill(tmp_path)
    with pytest.raises(FlowlitError, match=message):
        Cached(store, limit=limit).dataset()


def test_limit_takes_the_first_pairs(tmp_path):
    assert len(Cached(fill(tmp_path), limit=30).dataset()) == 30


def test_atomic_write_leaves_the_old_file_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            with pytest.raises(FlowlitError, match=r"cannot be written .*No space left.*run the same command again"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(FlowlitError, match="cannot be written"):
        Store(tmp_path / "store").begin(IDENTITY)


def test_half_written_files_are_no_shards(tmp_path):
    fill(tmp_path, shards=(0,), finish=False)
    (tmp_path / ".00001.safetensors.123.tmp").write_bytes(b"half")
    assert Store(tmp_path).finished_shards() == [0]


def test_stored_pairs_can_be_sent_to_workers(tmp_path):
    pairs = StoredPairs(Store(fill(tmp_path)))
    whole = torch.stack([pairs[i].x0 for i in range(50)])
    assert len(pickle.dumps(pairs)) < 5000, "shards are mapped again, not copied"
    batches = DataLoader(pairs, batch_size=7, num_workers=2)
    assert torch.equal(torch.cat([b.x0 for b in batches]), whole)


# cached and simulated


@pytest.mark.parametrize("solver", [Euler(3), RK45(), SDE(3)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("teacher", ["network", "oracle"])
def test_cached_pairs_are_the_simulated_ones(solver, teacher, tmp_path):
    if teacher == "network":
        velocity = randomise(tiny_unet(resolution=4, attention_resolutions=(2,), num_classes=4), scale=0.1).eval()
    else:
        velocity = EmpiricalFlow(Digits(limit=60).data[0][:, :, ::2, ::2].float() / 127.5 - 1)
    noise = NOISE if teacher == "network" else SeededNoise((1, 4, 4), 50, seed=3)
    cached = Cached(fill(tmp_path, velocity, solver, noise=noise))
    simulated = Simulated(velocity, solver, noise)
    with torch.no_grad():
        one, two = (c.complete(default_collate([c.dataset()[i] for i in range(20, 28)]), CPU) for c in (cached, simulated))
    assert torch.equal(one.x0, two.x0) and torch.allclose(one.x1, two.x1, atol=1e-6)
    assert one.cond.keys() == two.cond.keys() and all(torch.equal(one.cond[k], two.cond[k]) for k in one.cond)


@pytest.mark.parametrize("kind", ["cached", "simulated"])
def test_flipped_pairs_stay_aligned(kind, tmp_path):
    """The field acts on each pixel alone, so a mirrored pair must still be a solution."""
    field = LinearField()
    coupling = Cached(fill(tmp_path, field), flip=True) if kind == "cached" else Simulated(field, Euler(2), NOISE, flip=True)
    pair = coupling.complete(default_collate([coupling.dataset()[i] for i in range(50)]), CPU)
    assert torch.allclose(Euler(2)(field, pair.x0).x1, pair.x1, atol=1e-6)
    mirrored = sum(torch.equal(pair.x0[i], NOISE[i].x0.flip(-1)) for i in range(50))
    assert 10 < mirrored < 40


def test_half_precision_stores_give_float32(tmp_path):
    coupling = Cached(fill(tmp_path, dtype=torch.float16))
    pair = coupling.complete(default_collate([coupling.dataset()[i] for i in range(50)]), CPU)
    assert pair.x0.dtype == pair.x1.dtype == torch.float32
    assert (pair.x0 - torch.stack([NOISE[i].x0 for i in range(50)])).abs().max() < 0.002


def test_simulated_freezes_its_teacher_and_says_who_it_is():
    teacher = LinearField().train()
    coupling = Simulated(teacher, Euler(1), NOISE)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert "LinearField" in coupling.source
    assert copy.deepcopy(coupling).teacher.network is teacher


# checks of pairs


def test_good_pairs_pass():
    check_pairs(torch.randn(500, 1, 8, 8), torch.randn(500, 1, 8, 8).tanh(), "here")
    check_pairs(torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 1, 2, 2), "a tiny store")


def forget_checksums(folder):
    """Let a store take its shards as they are now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"]:
        entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_flipped_byte_is_found(tmp_path):
    fill(tmp_path, EmpiricalFlow(Digits(limit=50).data[0][:, :, ::2, ::2].float() / 127.5 - 1), noise=SeededNoise((1, 4, 4), 50))
    path = tmp_path / "00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FlowlitError, match="its checksum is not that of the manifest"):
        Cached(str(tmp_path)).dataset()[0]


def test_swapped_ends_are_found(tmp_path):
    fill(tmp_path, EmpiricalFlow(Digits(limit=50).data[0][:, :, ::2, ::2].float() / 127.5 - 1), noise=SeededNoise((1, 4, 4), 50))
    for path in tmp_path.glob("*.safetensors"):
        content = load_file(path)
        save_file({**content, "x0": content["x1"], "x1": content["x0"]}, path)
    forget_checksums(tmp_path)
    with pytest.raises(FlowlitError, match="the ends seem swapped: x0 is noise, x1 is data"):
        Cached(str(tmp_path)).dataset()


@pytest.mark.parametrize(
    "x0", [0.5 * torch.randn(100, 64), 1 + torch.randn(100, 64), torch.zeros(100, 64), torch.full((100, 64), torch.nan)]
)
def test_noise_that_is_no_noise_is_found(x0):
    with pytest.raises(FlowlitError, match=r"here: x0 has mean .* expected 0 and 1"):
        check_pairs(x0, torch.rand(100, 64), "here")


def test_broken_data_is_found():
    x1 = torch.rand(100, 64)
    x1[3, 4] = torch.inf
    with pytest.raises(FlowlitError, match="x1 is not finite"):
        check_pairs(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), x1, "here")
