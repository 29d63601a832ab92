"""Pairs from other projects and back."""

import json
import os
import shutil
import tracemalloc
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import stores
import torch
from commandline import in_process
from PIL import Image
from reference.pair_folders import edm_name, edm_noise, write_edm_zip, write_folder
from suspects import fill, noise_origin, wrong

from flowlit.couplings.store.encoding import restored
from flowlit.couplings.store.exporting import export_folder, export_zip
from flowlit.couplings.store.foreign import PairFolder, SeededZip
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.data import ImageZip
from flowlit.errors import FlowlitError


def take(source, into, *words):
    """Import as a user does."""
    done = in_process("couplings", "import", *_paths(source), "--into", into, *words)
    assert done.code == 0, done.err
    return into


def refused(source, into, *words):
    return in_process("couplings", "import", *_paths(source), "--into", into, *words).error


def _paths(source):
    return source if isinstance(source, list) else [source]


def rows(folder):
    pairs = StoredPairs([folder])
    pair = pairs.__getitems__(range(len(pairs)))
    return (
        restored(pair.x0).numpy(),
        restored(pair.x1).numpy(),
        pair.cond["label"].numpy() if pair.cond else None,
    )


EXACT = ("--x0", "float32", "--x1", "float32")


# folders


@pytest.mark.parametrize("labels", ["one-hot", "integers", None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_folders_of_several_seeds(tmp_path, labels, dtype, order):
    kind = {"labels": labels, "dtype": dtype, "order": order, "shape": (3, 4, 4)}
    made = [write_folder(tmp_path / f"from/{seed}", rows=30, seed=seed, **kind) for seed in (2, 10)]
    x0, x1, label = rows(take(tmp_path / "from", tmp_path / "into", *EXACT, "--shard_size", 20))
    np.testing.assert_array_equal(x0, np.concatenate([m["z0"] for m in made]).astype(np.float32))
    np.testing.assert_allclose(x1, np.concatenate([m["z1"] for m in made]), atol=1e-6)
    manifest = json.loads((tmp_path / "into/manifest.json").read_text())
    assert manifest["seeds"] == [2, 10] and [e["rows"] for e in manifest["shards"]] == [20, 10, 20, 10]
    if labels is None:
        assert label is None and manifest["labels"] is None
    else:
        expected = np.concatenate([m["label"] for m in made])
        np.testing.assert_array_equal(label, expected.argmax(1) if labels == "one-hot" else expected)
        assert manifest["labels"]["num_classes"] == 10


def test_one_folder_alone(tmp_path):
    made = write_folder(tmp_path / "pairs", rows=25)
    x0, x1, _ = rows(take(tmp_path / "pairs", tmp_path / "into"))
    np.testing.assert_allclose(x0, made["z0"], atol=2e-3)
    np.testing.assert_allclose(x1, made["z1"], atol=1e-3)


def test_folders_given_one_by_one(tmp_path):
    for seed in (0, 1):
        write_folder(tmp_path / str(seed), seed=seed)
    take([tmp_path / "0", tmp_path / "1"], tmp_path / "into")
    assert json.loads((tmp_path / "into/manifest.json").read_text())["seeds"] == [0, 1]


def test_the_manifest_tells_where_pairs_came_from(tmp_path):
    write_folder(tmp_path / "pairs")
    take(tmp_path / "pairs", tmp_path / "into", "--teacher", "NCSN++ of the authors")
    manifest = json.loads((tmp_path / "into/manifest.json").read_text())
    assert manifest["teacher"] == {"name": "NCSN++ of the authors"} and manifest["imported"] == [
        str(tmp_path / "pairs")
    ]
    assert manifest["solver"] is None and manifest["origin"] == "noise" and manifest["complete"]


@pytest.mark.parametrize("data", [(0, 1), (0, 255)])
def test_another_range_is_refused_until_it_is_named(tmp_path, data):
    made = write_folder(tmp_path / "pairs", data=data)
    error = refused(tmp_path / "pairs", tmp_path / "into")
    assert "--data_range 0 1, or 0 255" in error and not (tmp_path / "into").exists()
    _, x1, _ = rows(take(tmp_path / "pairs", tmp_path / "into", "--data_range", *data, *EXACT))
    np.testing.assert_allclose(x1, made["z1"] / data[1] * 2 - 1, atol=1e-6)


def test_bytes_are_stored_as_they_were(tmp_path):
    made = write_folder(tmp_path / "pairs", data=(0, 255))
    np.save(tmp_path / "pairs/z1.npy", made["z1"].astype(np.uint8))
    take(tmp_path / "pairs", tmp_path / "into", "--data_range", 0, 255, "--x1", "uint8")
    pairs = StoredPairs([tmp_path / "into"])
    np.testing.assert_array_equal(pairs.__getitems__(range(40)).x1.numpy(), made["z1"].astype(np.uint8))


def test_the_wrong_range_is_refused(tmp_path):
    write_folder(tmp_path / "bytes", data=(0, 255))
    assert "do not look like data in 0 … 1" in refused(
        tmp_path / "bytes", tmp_path / "a", "--data_range", 0, 1
    )
    write_folder(tmp_path / "unit", data=(0, 1))
    assert "--data_range" in refused(tmp_path / "unit", tmp_path / "b", "--data_range", 0, 255)


def swapped_folder(path):
    made = write_folder(path)
    os.rename(path / "z0.npy", path / "tmp.npy")
    os.rename(path / "z1.npy", path / "z0.npy")
    os.rename(path / "tmp.npy", path / "z1.npy")
    return made


def test_swapped_ends_are_refused_until_swap_is_said(tmp_path):
    made = swapped_folder(tmp_path / "pairs")
    assert "--swap" in refused(tmp_path / "pairs", tmp_path / "into")
    x0, x1, _ = rows(take(tmp_path / "pairs", tmp_path / "into", "--swap", *EXACT))
    np.testing.assert_array_equal(x0, made["z0"])
    np.testing.assert_allclose(x1, made["z1"], atol=1e-6)


def test_swapping_what_is_straight_is_refused(tmp_path):
    write_folder(tmp_path / "pairs")
    assert "do not look like data" in refused(tmp_path / "pairs", tmp_path / "into", "--swap")


def test_rows_that_do_not_belong_together_are_found(tmp_path):
    made = write_folder(tmp_path / "pairs")
    np.save(tmp_path / "pairs/z1.npy", made["z1"][::-1])
    assert "do not belong together" in refused(tmp_path / "pairs", tmp_path / "into")


@pytest.mark.parametrize("name", ["z0", "z1", "label"])
def test_lengths_that_differ_are_refused(tmp_path, name):
    made = write_folder(tmp_path / "pairs", labels="integers")
    np.save(tmp_path / f"pairs/{name}.npy", made[name][:-1])
    error = refused(tmp_path / "pairs", tmp_path / "into")
    assert "39" in error and "40" in error and not (tmp_path / "into").exists()


@pytest.mark.parametrize("name", ["z0", "z1", "label"])
def test_pickles_are_refused(tmp_path, name):
    made = write_folder(tmp_path / "pairs", labels="integers")
    np.save(tmp_path / f"pairs/{name}.npy", made[name].astype(object), allow_pickle=True)
    error = refused(tmp_path / "pairs", tmp_path / "into")
    assert f"{name}.npy cannot be read as a plain array" in error and "numpy.save" in error


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_broken_arrays_are_refused(tmp_path, content):
    write_folder(tmp_path / "pairs")
    (tmp_path / "pairs/z1.npy").write_bytes(content)
    assert "z1.npy cannot be read" in refused(tmp_path / "pairs", tmp_path / "into")


def test_folders_without_pairs_are_refused(tmp_path):
    write_folder(tmp_path / "pairs")
    (tmp_path / "pairs/z1.npy").unlink()
    assert "z1.npy does not exist; expected z0.npy (noise) and z1.npy (data)" in refused(
        tmp_path / "pairs", tmp_path / "into"
    )
    (tmp_path / "pairs/z0.npy").unlink()
    assert "expected z0.npy and z1.npy" in refused(tmp_path / "pairs", tmp_path / "into")
    assert "no pairs in" in refused(tmp_path / "nowhere", tmp_path / "into")


def test_folders_without_rows_are_refused(tmp_path):
    write_folder(tmp_path / "pairs")
    for name in ("z0", "z1"):
        np.save(tmp_path / f"pairs/{name}.npy", np.zeros((0, 1, 8, 8), np.float32))
    assert "pairs" in refused(tmp_path / "pairs", tmp_path / "into")


def test_two_folders_of_one_seed_are_refused(tmp_path):
    for root in ("a", "b"):
        write_folder(tmp_path / root / "7", seed=7)
    error = refused([tmp_path / "a", tmp_path / "b"], tmp_path / "into")
    assert "seeds [7] occur in several sources" in error and not (tmp_path / "into").exists()


def test_folders_with_other_names_get_seeds_of_their_own(tmp_path):
    for seed, name in enumerate(("1", "2", "more")):
        write_folder(tmp_path / "from" / name, seed=seed)
    take(tmp_path / "from", tmp_path / "into")
    assert len(set(json.loads((tmp_path / "into/manifest.json").read_text())["seeds"])) == 3


@pytest.mark.parametrize("other", [{"shape": (3, 8, 8)}, {"labels": "integers"}], ids=str)
def test_folders_that_differ_are_refused(tmp_path, other):
    write_folder(tmp_path / "from/0")
    write_folder(tmp_path / "from/1", seed=1, **other)
    assert "sources differ" in refused(tmp_path / "from", tmp_path / "into")


@pytest.mark.parametrize("name", ["z0", "z1"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, name):
    made = write_folder(tmp_path / "pairs")
    made[name][33, 0, 2, 2] = np.nan
    np.save(tmp_path / f"pairs/{name}.npy", made[name])
    assert "not finite" in refused(tmp_path / "pairs", tmp_path / "into", "--shard_size", 10)


# interrupted, and grown


@pytest.fixture
def killed_after(monkeypatch):
    """Run something with Ctrl-C between two shards."""

    def run(shards, *words):
        write, done = Store.write_shard, []

        def write_shard(self, *arguments):
            if len(done) == shards:
                raise KeyboardInterrupt
            done.append(write(self, *arguments))

        with monkeypatch.context() as patch:
            patch.setattr(Store, "write_shard", write_shard)
            assert in_process(*words).code == 130

    return run


def test_an_interrupted_import_goes_on(tmp_path, killed_after):
    for seed in (0, 1):
        write_folder(tmp_path / f"from/{seed}", seed=seed, labels="one-hot")
    words = ("couplings", "import", tmp_path / "from", "--shard_size", 15, "--into")
    killed_after(4, *words, tmp_path / "into")
    before = stores.stamps(tmp_path / "into")
    assert len(before) == 4
    with pytest.raises(
        FlowlitError, match=r"not finished \(70 of 80 pairs\)|not finished \(55 of 80 pairs\)"
    ):
        StoredPairs([tmp_path / "into"])
    killed_after(1, *words, tmp_path / "into")
    assert in_process(*words, tmp_path / "into").code == in_process(*words, tmp_path / "whole").code == 0
    assert before.items() <= stores.stamps(tmp_path / "into").items(), "what was there is not written again"
    assert stores.content(tmp_path / "into") == stores.content(tmp_path / "whole")


def test_an_interrupted_import_of_a_zip_goes_on(tmp_path, killed_after):
    write_edm_zip(tmp_path / "images.zip", range(40))
    words = ("couplings", "import", tmp_path / "images.zip", "--shard_size", 15, "--into")
    killed_after(1, *words, tmp_path / "into")
    assert in_process(*words, tmp_path / "into").code == in_process(*words, tmp_path / "whole").code == 0
    assert stores.content(tmp_path / "into") == stores.content(tmp_path / "whole")


def test_further_folders_are_added_without_touching_the_old(tmp_path):
    made = [write_folder(tmp_path / f"from/{seed}", seed=seed) for seed in (0, 1)]
    take(tmp_path / "from", tmp_path / "into", *EXACT, "--shard_size", 15)
    before = stores.stamps(tmp_path / "into"), stores.content(tmp_path / "into")
    made += [write_folder(tmp_path / f"from/{seed}", seed=seed) for seed in (2, 10)]
    x0, x1, _ = rows(take(tmp_path / "from", tmp_path / "into", *EXACT, "--shard_size", 15))
    np.testing.assert_array_equal(x0, np.concatenate([m["z0"] for m in made]))
    np.testing.assert_allclose(x1, np.concatenate([m["z1"] for m in made]), atol=1e-6)
    after = stores.stamps(tmp_path / "into"), stores.content(tmp_path / "into")
    assert before[0].items() <= after[0].items() and len(after[0]) == 12
    assert {k: v for k, v in before[1].items() if k != "manifest.json"}.items() <= after[1].items()
    assert wrong(tmp_path / "into") == {}


def test_importing_again_changes_nothing(tmp_path):
    write_folder(tmp_path / "pairs")
    take(tmp_path / "pairs", tmp_path / "into")
    before = stores.content(tmp_path / "into"), stores.stamps(tmp_path / "into")
    take(tmp_path / "pairs", tmp_path / "into")
    assert (stores.content(tmp_path / "into"), stores.stamps(tmp_path / "into")) == before


@pytest.mark.parametrize("other", [("--x1", "uint8"), ("--teacher", "another"), ("--shard_size", 7)], ids=str)
def test_a_store_of_other_pairs_is_not_touched(tmp_path, other):
    write_folder(tmp_path / "pairs")
    before = stores.content(take(tmp_path / "pairs", tmp_path / "into"))
    assert "already holds other pairs" in refused(tmp_path / "pairs", tmp_path / "into", *other)
    assert stores.content(tmp_path / "into") == before


# memory


@pytest.mark.parametrize("fortran", [False, True])
def test_reading_a_shard_does_not_read_the_folder(tmp_path, fortran):
    """200,000 rows (sparse, 154 MB an end); a hundred of them are 77 kB."""
    labels = np.lib.format.open_memmap(tmp_path / "label.npy", "w+", np.float32, (200_000, 10))
    labels[:, 3] = 1
    for name in ("z0", "z1"):
        shape = (200_000, 3, 8, 8)
        array = np.lib.format.open_memmap(
            tmp_path / f"{name}.npy", "w+", np.float32, shape, fortran_order=fortran
        )
        array[:64] = np.random.default_rng(0).uniform(-1, 1, (64, 3, 8, 8))
        array[150_000:150_003] = 0.5
        array.flush()
    tracemalloc.start()
    folder = PairFolder(tmp_path, 0)
    found = folder.read(150_000, 150_100)
    classes = folder.num_classes()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(folder) == 200_000 and classes == 10 and (found.label == 3).all()
    assert (found.x1[:3] == 0.5).all() and (found.x1[3:] == 0).all() and found.index[0] == 150_000
    assert peak < 2e6


# zips


def test_a_zip_with_seeds_in_its_names(tmp_path):
    seeds = [5, 12, 999, 1000, 100_003, *range(20, 50)]
    made = write_edm_zip(tmp_path / "images.zip", seeds)
    take(tmp_path / "images.zip", tmp_path / "into", "--x0", "float32", "--x1", "uint8", "--shard_size", 16)
    pairs = StoredPairs([tmp_path / "into"])
    pair = pairs.__getitems__(range(len(pairs)))
    for i, seed in enumerate(sorted(seeds)):
        np.testing.assert_array_equal(pair.x0[i], made[seed][0])
        np.testing.assert_array_equal(pair.x1[i], made[seed][1], "bytes are those of the PNG")
    assert wrong(tmp_path / "into") == {}


@pytest.mark.parametrize(
    "name", [lambda seed: f"{seed}.png", lambda seed: f"a/img{seed}.png", lambda seed: f"seed-{seed:09d}.png"]
)
def test_seeds_stand_at_the_end_of_names(tmp_path, name):
    """Also where the order of names is not that of the seeds."""
    made = write_edm_zip(tmp_path / "images.zip", [2, 10, 1], names=name)
    source = SeededZip(tmp_path / "images.zip")
    found = source.read(0, 3)
    assert found.index.tolist() == [1, 2, 10]
    for i, seed in enumerate((1, 2, 10)):
        np.testing.assert_array_equal(found.x0[i], made[seed][0])
        np.testing.assert_array_equal((found.x1[i] * 127.5 + 127.5).round(), made[seed][1])


def test_a_zip_with_a_range_of_seeds(tmp_path):
    made = write_edm_zip(
        tmp_path / "images.zip", range(300, 340), names=lambda seed: f"00000/img{seed - 300:08d}.png"
    )
    x0, _, _ = rows(take(tmp_path / "images.zip", tmp_path / "into", "--seeds", "300-339", "--x0", "float32"))
    np.testing.assert_array_equal(x0, [made[seed][0] for seed in range(300, 340)])


@pytest.mark.parametrize("file", ["seeds.txt", "seeds.npy"])
def test_a_zip_with_seeds_from_a_file(tmp_path, file):
    seeds = np.random.default_rng(0).permutation(1000)[:40]
    names = {int(seed): f"{place:06d}.png" for place, seed in enumerate(seeds)}
    made = write_edm_zip(tmp_path / "images.zip", names, names=names.get)
    np.save(tmp_path / file, seeds) if file.endswith("npy") else np.savetxt(tmp_path / file, seeds, "%d")
    x0, _, _ = rows(
        take(tmp_path / "images.zip", tmp_path / "into", "--seeds", tmp_path / file, "--x0", "float32")
    )
    np.testing.assert_array_equal(x0, [made[seed][0] for seed in sorted(names)])


def test_a_zip_of_grey_images(tmp_path):
    made = write_edm_zip(tmp_path / "images.zip", range(40), shape=(1, 8, 8))
    take(tmp_path / "images.zip", tmp_path / "into", "--x0", "float32", "--x1", "uint8")
    pairs = StoredPairs([tmp_path / "into"])
    assert pairs.shape == (1, 8, 8)
    np.testing.assert_array_equal(pairs[7].x0, made[7][0])
    np.testing.assert_array_equal(pairs[7].x1, made[7][1])


def test_labels_of_a_zip(tmp_path):
    write_edm_zip(tmp_path / "images.zip", range(40), labels=lambda seed: seed * 7 % 10)
    _, _, label = rows(take(tmp_path / "images.zip", tmp_path / "into", "--labels"))
    assert label.tolist() == [seed * 7 % 10 for seed in range(40)]
    assert json.loads((tmp_path / "into/manifest.json").read_text())["labels"]["num_classes"] == 10
    assert rows(take(tmp_path / "images.zip", tmp_path / "without"))[2] is None


def test_labels_that_are_not_there_are_refused(tmp_path):
    write_edm_zip(tmp_path / "images.zip", range(4))
    assert "dataset.json is missing" in refused(tmp_path / "images.zip", tmp_path / "into", "--labels")


def test_wrong_seeds_are_found_by_the_correlation(tmp_path):
    write_edm_zip(tmp_path / "images.zip", range(40), drawn=lambda seed: seed + 500)
    error = refused(tmp_path / "images.zip", tmp_path / "into")
    assert "correlation" in error and "--seeds" in error and "--device" in error
    take(tmp_path / "images.zip", tmp_path / "right", "--seeds", "500-539")


def test_a_seed_that_occurs_twice_is_refused(tmp_path):
    names = {1: "a/000001.png", 2: "b/000001.png", 3: "b/000003.png"}
    write_edm_zip(tmp_path / "images.zip", names, names=names.get)
    assert "seed 1 (mod 2^32) occurs twice" in refused(tmp_path / "images.zip", tmp_path / "into")


def test_seeds_that_give_the_same_noise_are_refused(tmp_path):
    """EDM takes seeds modulo 2^32."""
    write_edm_zip(tmp_path / "images.zip", [1, 2], names=lambda seed: f"{seed}.png")
    (tmp_path / "seeds.txt").write_text(f"5\n{5 + 2**32}\n")
    assert "twice" in refused(tmp_path / "images.zip", tmp_path / "into", "--seeds", tmp_path / "seeds.txt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--seeds", "0-9"), "10 seeds for 4 images"),
        (("--seeds", "9-0"), "0 seeds for 4 images"),
        (("--seeds", "nowhere.txt"), "nowhere.txt cannot be read"),
        (("--device", "toaster"), "toaster"),
        (("--device", "cuda"), "not there"),
    ],
    ids=str,
)
def test_seeds_and_devices_that_make_no_sense(tmp_path, words, told):
    if words[1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    write_edm_zip(tmp_path / "images.zip", range(4))
    assert told in refused(tmp_path / "images.zip", tmp_path / "into", *words)
    assert not (tmp_path / "into/manifest.json").exists()


def test_names_without_numbers_ask_for_seeds(tmp_path):
    write_edm_zip(tmp_path / "images.zip", [1, 2], names=lambda seed: f"{'ab'[seed - 1]}.png")
    error = refused(tmp_path / "images.zip", tmp_path / "into")
    assert "a.png has no number" in error and "--seeds" in error


def test_zips_that_cannot_be_read(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere.zip", tmp_path / "into")
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    assert "cannot be read" in refused(tmp_path / "broken.zip", tmp_path / "into")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "no images" in refused(tmp_path / "empty.zip", tmp_path / "into")
    write_edm_zip(tmp_path / "a.zip", range(4))
    assert "one zip at a time" in refused([tmp_path / "a.zip", tmp_path / "a.zip"], tmp_path / "into")


def test_the_noise_of_other_devices_is_another_generator(tmp_path):
    write_edm_zip(tmp_path / "images.zip", [3])
    source = SeededZip(tmp_path / "images.zip")
    assert "Generator(cpu)" in source.generator
    np.testing.assert_array_equal(source.read(0, 1).x0[0], edm_noise(3, (3, 8, 8)))
    assert edm_name(1234) == "001000/001234.png"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_shards_need_a_size(tmp_path, kind):
    write_folder(tmp_path / "folder")
    write_edm_zip(tmp_path / "zip.zip", range(4))
    source = tmp_path / ("zip.zip" if kind == "zip" else "folder")
    for size in (0, -5):
        assert "shard_size" in refused(source, tmp_path / "into", "--shard_size", size)


# export


@pytest.fixture(
    scope="module",
    params=[("float32", "float32", 0), ("seed", "uint8", 5), ("float16", "float16", 5)],
    ids=str,
)
def store(request, tmp_path_factory):
    x0, x1, classes = request.param
    origin = noise_origin(60, classes=classes)
    return fill(tmp_path_factory.mktemp("export") / "pairs", 60, origin, shard_size=25, x0=x0, x1=x1)


def test_exported_arrays_are_those_of_the_store(cli, store, tmp_path):
    done = cli("couplings", "export", store, "--into", tmp_path / "out")
    assert done.code == 0, done.err
    x0, x1, label = rows(store)
    found = {path.name: np.load(path, allow_pickle=False) for path in (tmp_path / "out").iterdir()}
    assert found.keys() == {"z0.npy", "z1.npy"} | (set() if label is None else {"label.npy"})
    np.testing.assert_array_equal(found["z0.npy"], x0)
    np.testing.assert_array_equal(found["z1.npy"], x1)
    assert found["z0.npy"].dtype == found["z1.npy"].dtype == np.float32
    if label is not None:
        np.testing.assert_array_equal(found["label.npy"], label)
        assert found["label.npy"].dtype == np.int64


def test_what_was_exported_can_be_imported(store, tmp_path):
    export_folder(store, tmp_path / "0")
    for a, b in zip(rows(take(tmp_path / "0", tmp_path / "back", *EXACT)), rows(store), strict=True):
        if a is not None or b is not None:
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_an_exported_zip_is_read_by_image_zip(cli, store, tmp_path):
    done = cli("couplings", "export", store, "--into", tmp_path / "out.zip")
    assert done.code == 0, done.err
    _, x1, label = rows(store)
    images = ImageZip(str(tmp_path / "out.zip"), channels=1, labels=label is not None)
    assert len(images) == 60
    for i in (0, 24, 25, 59):
        np.testing.assert_array_equal(images[i]["x1"], (x1[i] * 127.5 + 127.5).round().clip(0, 255))
        if label is not None:
            assert int(images[i]["cond"]["label"]) == label[i]
    assert list(tmp_path.iterdir()) == [tmp_path / "out.zip"]


def test_an_exported_zip_of_colours(tmp_path):
    store = fill(tmp_path / "pairs", 20, noise_origin(20, shape=(3, 8, 8)), x1="uint8")
    export_zip(store, tmp_path / "out.zip")
    images, pairs = ImageZip(str(tmp_path / "out.zip")), StoredPairs([store])
    assert all(torch.equal(images[i]["x1"], pairs[i].x1) for i in range(20))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive, archive.open(archive.namelist()[0]) as file:
        assert Image.open(file).format == "PNG"
        assert json.loads(archive.read("dataset.json")) == {"labels": None}


@pytest.mark.parametrize("into", ["out", "out.zip"])
def test_what_is_there_already_is_not_overwritten(cli, store, tmp_path, into):
    (tmp_path / into).write_text("precious")
    assert "exists already" in cli("couplings", "export", store, "--into", tmp_path / into).error
    assert (tmp_path / into).read_text() == "precious"


@pytest.mark.parametrize("into", ["out", "out.zip"])
def test_a_full_disk_is_found_out_before(cli, store, tmp_path, monkeypatch, into):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    error = cli("couplings", "export", store, "--into", tmp_path / into).error
    assert "GB are free" in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize("into", ["out", "out.zip"])
def test_an_interrupted_export_leaves_no_half(cli, store, tmp_path, monkeypatch, into):
    read, calls = StoredPairs.__getitems__, []

    def killed(self, indices):
        calls.append(indices)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return read(self, indices)

    words = ("couplings", "export", store, "--into", tmp_path / into)
    with monkeypatch.context() as patch:
        patch.setattr(StoredPairs, "__getitems__", killed)
        patch.setattr("flowlit.couplings.store.exporting.blocks.__defaults__", (32,))
        assert cli(*words).code == 130
    assert not (tmp_path / into).exists()
    assert cli(*words).code == 0 and [path.name for path in tmp_path.iterdir()] == [into]


def test_a_damaged_store_is_not_exported(cli, tmp_path):
    store = fill(tmp_path / "pairs")
    stores.one_bit(store / "00001.safetensors")
    assert "00001.safetensors" in cli("couplings", "export", store, "--into", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


def test_an_export_that_cannot_be_written_is_one_error(cli, store, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in cli("couplings", "export", store, "--into", tmp_path / "file/out").error


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.arange(60) % 3, None),
        ((np.arange(60) % 3)[:, None], None),
        (np.arange(60) / 7, "whole numbers"),
        (np.array(3), "label.npy"),
    ],
    ids=["integers", "a column", "fractions", "a scalar"],
)
def test_labels_of_a_folder_are_classes_or_refused(tmp_path, label, expected):
    x0 = np.random.default_rng(0).standard_normal((60, 1, 4, 4)).astype(np.float32)
    (tmp_path / "7").mkdir()
    np.save(tmp_path / "7/z0.npy", x0)
    np.save(tmp_path / "7/z1.npy", np.tanh(x0))
    np.save(tmp_path / "7/label.npy", label)
    if expected:
        with pytest.raises(FlowlitError, match=expected):
            PairFolder(tmp_path / "7")
    else:
        assert PairFolder(tmp_path / "7").read(0, 60).label.tolist() == (np.arange(60) % 3).tolist()
