"""`couple`: pairs of every origin, and what happens when something goes wrong while they are made."""

import os
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from ends import IMAGES, SHAPE, back, encoded, field_and_model
from stores import a_folder, content, missing, stamps, truncated
from tools import named

from flowlit.couplings import Independent, SeededNoise, seeded_normal
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler
from flowlit.types import Solution


def make(root, origin="noise", limit=12, model=None, noise=None, seed=6, **words):
    """Run `couple` in Python."""
    data = FlowDataModule(Independent(Digits(limit=limit)), noise=noise or SeededNoise(SHAPE, 8))
    model = model or field_and_model(Euler(2))[1]
    size = {"num": 12, "shard_size": 5, "batch_size": 3, "x0": "float32", "x1": "float32", **words}
    tiny.trainer(root, 1).couple(model, data, store=str(root / "store"), origin=origin, seed=seed, **size)
    return root / "store"


def test_couple_inverts_images(tmp_path):
    field, model = field_and_model()
    store = make(tmp_path, "data", model=model)
    pairs = StoredPairs([store]).__getitems__(range(12))
    assert torch.equal(pairs.x1, encoded(range(12))) and torch.allclose(
        pairs.x0, back(field, pairs.x1), atol=1e-4
    )
    manifest = read_manifest(store)
    assert manifest["origin"] == "data" and manifest["images"] == {"sha256": IMAGES.fingerprint}
    assert manifest["noise"] == {"generator": "the flow in reverse"} and manifest["nfe"]["min"] > 0
    assert manifest["teacher"]["parameters"] == 3


def test_couple_puts_random_pairs_together_without_a_network(tmp_path):
    field, model = field_and_model()
    store = make(tmp_path, "random", model=model, num=30, x0="seed", x1="uint8")
    manifest, pairs = read_manifest(store), StoredPairs([store]).__getitems__(range(30))
    assert (
        field.called == 0
        and manifest["teacher"] is None
        and manifest["solver"] is None
        and manifest["nfe"]["max"] == 0
    )
    assert manifest["rounding"]["x1"]["max"] < 1e-6, "images have 256 levels already"
    assert torch.equal(pairs.x0, torch.stack([seeded_normal(6, i, SHAPE) for i in range(30)]))
    assert torch.equal(pairs.x1, torch.stack([IMAGES[i % 12]["x1"] for i in range(30)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"origin": "data", "num": 13}, "--num is 13, but there are 12 images"),
        ({"origin": "data", "x0": "seed"}, "has no seed; store it: --x0 float16"),
        (
            {"origin": "random", "noise": SeededNoise((1, 4, 4), 8)},
            r"images of shape \(1, 8, 8\), but data.noise.shape",
        ),
        ({"num": 0}, "num is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"shard_size": -5}, "shard_size is -5"),
    ],
    ids=named,
)
def test_couple_refuses_what_makes_no_sense_before_it_writes(arguments, message, tmp_path):
    with pytest.raises(FlowlitError, match=message):
        make(tmp_path, **arguments)
    assert not (tmp_path / "store").exists() or not content(tmp_path / "store")


def test_couple_takes_given_labels(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(str(i % 3) for i in range(20)))
    noise = SeededNoise(SHAPE, 8, num_classes=3)
    store = make(tmp_path, noise=noise, labels=str(tmp_path / "labels.txt"))
    labels = StoredPairs([store]).__getitems__(range(12)).cond["label"]
    assert labels.tolist() == [i % 3 for i in range(12)] and read_manifest(store)["labels"]["law"] == "given"
    assert len(StoredPairs([make(tmp_path, noise=noise, labels=str(tmp_path / "labels.txt"), num=20)])) == 20
    (tmp_path / "labels.txt").write_text("\n".join("2" for _ in range(20)))
    with pytest.raises(FlowlitError, match=r"already holds other pairs .*labels: "):
        make(tmp_path, noise=noise, labels=str(tmp_path / "labels.txt"), num=20)


def test_couple_needs_a_label_for_each_pair(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(11) % 3)
    with pytest.raises(FlowlitError, match="11 labels for 12 samples"):
        make(tmp_path, noise=SeededNoise(SHAPE, 8, num_classes=3), labels=str(tmp_path / "labels.npy"))


def test_couple_notes_who_made_the_pairs(tmp_path):
    manifest = read_manifest(make(tmp_path))
    assert (
        manifest["solver"]["class_path"] == "flowlit.solvers.Euler"
        and manifest["solver"]["init_args"]["steps"] == 2
    )
    assert (
        manifest["checkpoint"] is None
        and manifest["seeds"] == [6]
        and manifest["nfe"] == {"mean": 2.0, "min": 2, "max": 2}
    )
    assert Store(tmp_path / "store").missing() == []


# going wrong


def test_a_disk_that_is_too_small_is_found_before_the_first_batch(tmp_path, monkeypatch):
    field, model = field_and_model(Euler(2))
    needed = 12 * (2 * 64 * 4 + 8)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
        with pytest.raises(
            FlowlitError, match=r"12 pairs need .* GB, but .* free; make fewer .*--x0 seed --x1 float16"
        ):
            make(tmp_path, model=model)
        assert field.called == 0 and not content(tmp_path / "store")
        make(tmp_path, x0="seed", x1="float16")  # what it advises is possible in the same folder
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
        make(tmp_path, x0="seed", x1="float16")  # what is there already needs no space
        with pytest.raises(FlowlitError, match="1 pairs need"):
            make(tmp_path, x0="seed", x1="float16", num=13)
    assert read_manifest(tmp_path / "store")["complete"]


@pytest.mark.parametrize("file", ["00000.safetensors", "00001.safetensors", "00002.safetensors"])
def test_a_disk_that_fills_up_leaves_a_store_that_goes_on(file, tmp_path, monkeypatch):
    sync = os.fsync

    def full(fd):
        if file in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(28, "No space left on device")
        sync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            FlowlitError, match=rf"{file} cannot be written .*No space left.*run the same command again"
        ):
            make(tmp_path)
    left = content(tmp_path / "store")
    assert "manifest.json" in left and file not in left and not list((tmp_path / "store").glob(".*.tmp"))
    before = stamps(tmp_path / "store")
    make(tmp_path)
    assert content(tmp_path / "store") == content(make(tmp_path / "again"))
    assert {name: stamps(tmp_path / "store")[name] for name in before} == before


@dataclass
class Failing(Euler):
    """An Euler that breaks at one of its calls."""

    after: int = 0
    how: str = "raise"

    def __call__(self, *args, **kwargs):
        self.after -= 1
        x1, nfe = super().__call__(*args, **kwargs)
        if self.after == -1 and self.how == "raise":
            raise RuntimeError("the solver broke")
        return Solution(x1 * torch.nan if self.after == -1 else x1, nfe)


@pytest.mark.parametrize(("how", "message"), [("raise", "the solver broke"), ("nan", "not finite")])
def test_a_solver_that_breaks_loses_no_finished_shard(how, message, tmp_path):
    """12 pairs are shards of 5, 5 and 2, solved 3 at a time: the fifth call is the third shard's."""
    broken = FlowModule(tiny.Affine(), RectifiedFlow(), solvers={"it": Failing(2, after=4, how=how)})
    with pytest.raises((RuntimeError, FlowlitError), match=message):
        make(tmp_path, model=broken)
    store = Store(tmp_path / "store")
    assert sorted(content(store.folder)) == ["00000.safetensors", "00001.safetensors", "manifest.json"]
    with store.writing():
        assert [shard.number for shard in store.missing()] == [2]
    with pytest.raises(FlowlitError, match=r"not finished \(10 of 12 pairs\)"):
        StoredPairs([store.folder])


@pytest.mark.parametrize("damage", [missing, truncated])
def test_couple_makes_a_damaged_shard_again_and_no_other(damage, tmp_path):
    store = make(tmp_path)
    before, times = content(store), stamps(store)
    damage(store / "00001.safetensors")
    field, model = field_and_model(Euler(2))
    make(tmp_path, model=model)
    assert content(store) == before and field.called == 2 * 2 + 2, "two parts, and a few pairs again"
    assert [name for name, time in stamps(store).items() if time != times[name]] == ["00001.safetensors"]


def test_a_folder_in_the_place_of_a_shard_is_told(tmp_path):
    store = make(tmp_path)
    a_folder(store / "00001.safetensors")
    with pytest.raises(FlowlitError, match=r"00001.safetensors cannot be written"):
        make(tmp_path)


def test_couple_waits_for_no_other_writer(tmp_path):
    field, model = field_and_model(Euler(2))
    busy = pytest.raises(FlowlitError, match="another process is writing this store")
    with Store(tmp_path / "store").writing(), busy:
        make(tmp_path, model=model)
    assert field.called == 0
    assert len(StoredPairs([make(tmp_path)])) == 12


def test_the_lock_is_free_after_a_refusal(tmp_path):
    make(tmp_path)
    with pytest.raises(FlowlitError, match="already holds other pairs"):
        make(tmp_path, seed=7)
    with Store(tmp_path / "store").writing():
        pass


# growing


def test_couple_makes_a_store_larger_without_touching_what_is_there(tmp_path):
    store = make(tmp_path)
    before = stamps(store)
    field, model = field_and_model(Euler(2))
    make(tmp_path, model=model, num=20)
    assert {name: stamps(store)[name] for name in before} == before and field.called == 2 * 3 + 2
    assert read_manifest(store)["counts"] == [12, 20]
    grown, whole = (
        StoredPairs([folder]).__getitems__(range(20)) for folder in (store, make(tmp_path / "whole", num=20))
    )
    assert torch.equal(grown.x0, whole.x0) and torch.allclose(grown.x1, whole.x1, atol=1e-6)
    with pytest.raises(FlowlitError, match=r"is to hold, 20 pairs, and --num 12 would lose some"):
        make(tmp_path)


def test_a_shard_has_the_same_bytes_in_one_batch_size_only_up_to_rounding(tmp_path):
    """What is solved together is part of the arithmetic; the noise is not."""
    one, two = (
        StoredPairs([make(tmp_path / str(size), batch_size=size)]).__getitems__(range(12)) for size in (3, 5)
    )
    assert torch.equal(one.x0, two.x0) and torch.allclose(one.x1, two.x1, atol=1e-6)


def test_two_couples_of_one_trainer_write_two_stores(tmp_path):
    data = FlowDataModule(Independent(Digits(limit=12)), noise=SeededNoise(SHAPE, 8))
    trainer, model = tiny.trainer(tmp_path, 1), field_and_model(Euler(2))[1]
    for name, seed in (("one", 1), ("two", 2)):
        trainer.couple(model, data, store=str(tmp_path / name), num=6, seed=seed, shard_size=3, batch_size=3)
        if name == "one":
            before = content(tmp_path / "one")
    assert content(tmp_path / "one") == before != content(tmp_path / "two")


def test_couple_leaves_the_model_trainable(tmp_path):
    model = field_and_model(Euler(2))[1]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    make(tmp_path, model=model)
    assert any(wanted) and [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_shards_without_a_manifest_are_not_adopted(tmp_path):
    store = make(tmp_path)
    (store / "manifest.json").unlink()
    before = content(store)
    with pytest.raises(FlowlitError, match="holds other files"):
        make(tmp_path, seed=7)
    assert content(store) == before


def test_a_bit_that_flips_before_the_store_is_finished_is_found(tmp_path, monkeypatch):
    whole = content(make(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Store, "finished", lambda self: (_ for _ in ()).throw(RuntimeError("killed")))
        make(tmp_path / "torn")
    shard = tmp_path / "torn/store/00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert content(make(tmp_path / "torn")) == whole


def test_a_grown_store_refuses_labels_that_changed_in_between(tmp_path):
    noise = SeededNoise(SHAPE, 8, num_classes=3)
    (tmp_path / "labels.txt").write_text("0\n1\n2\n" * 4)

    def grow(num):
        return make(tmp_path, noise=noise, num=num, labels=str(tmp_path / "labels.txt"))

    grow(6)
    grow(12)
    (tmp_path / "labels.txt").write_text("0\n1\n2\n" * 2 + "2\n" * 12)
    with pytest.raises(FlowlitError, match="labels"):
        grow(18)


def test_images_without_labels_cannot_give_any(tmp_path):
    data = FlowDataModule(
        Independent(Digits(limit=12, labels=False)), noise=SeededNoise(SHAPE, 8, num_classes=10)
    )
    with pytest.raises(FlowlitError, match="images bring no labels"):
        tiny.trainer(tmp_path, 1).couple(
            field_and_model(Euler(2))[1], data, store=str(tmp_path / "s"), num=6, origin="random"
        )
