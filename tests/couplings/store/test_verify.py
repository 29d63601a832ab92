"""Every kind of damage is found and named; sound stores pass."""

import json
import shutil

import numpy as np
import pytest
import stores
import torch
from reference.pair_folders import write_edm_zip, write_folder
from suspects import SHAPE, Smooth, edit, fill, noise_origin, wrong  # noqa: F401

from flowlit.couplings.origins import FromData, Random
from flowlit.couplings.store.merge import merge
from flowlit.couplings.store.statistics import PairMoments
from flowlit.couplings.store.verify import verify
from flowlit.data import Digits
from flowlit.errors import FlowlitError


def reseal(folder, change, shards=None):
    """Change the arrays of shards, and make the manifest's checksums fit again."""
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        if shards is None or number in shards:
            stores.edit_shard(path, change)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("sound") / "pairs", 300, shard_size=100)


@pytest.fixture
def store(sound, tmp_path):
    """A copy to be damaged: 3 shards of 100 pairs."""
    return shutil.copytree(sound, tmp_path / "pairs")


# moments


@pytest.fixture(scope="module")
def ends():
    random = np.random.default_rng(0)
    x0 = random.standard_normal((500, 12))
    x1 = 0.4 * x0 + random.uniform(-1, 1, (500, 12)) + np.linspace(-1, 1, 12)
    return x0, x1


def moments_of(x0, x1, cuts=(100, 101, 350)):
    moments = PairMoments(x0.shape[1])
    for a, b in zip(np.split(x0, cuts), np.split(x1, cuts), strict=True):
        moments.add(a, b)
    return moments


def test_moments_are_those_of_numpy(ends):
    for name, x in zip(("x0", "x1"), ends, strict=True):
        kurtosis = (x**4).mean() / (x**2).mean() ** 2
        assert moments_of(*ends).mean_std_kurtosis(name) == pytest.approx(
            (x.mean(), x.std(), kurtosis), rel=1e-10
        )


def test_correlation_is_the_mean_over_entries(ends):
    x0, x1 = ends
    each = [np.corrcoef(x0[:, k], x1[:, k])[0, 1] for k in range(12)]
    found, deviation = moments_of(x0, x1).correlation()
    assert found == pytest.approx(np.mean(each), rel=1e-10)
    assert deviation == pytest.approx(1 / np.sqrt(500 * 12))


def test_entries_that_do_not_vary_have_no_correlation(ends):
    x0, x1 = ends[0], ends[1].copy()
    x1[:, :3] = 0.25
    each = [np.corrcoef(x0[:, k], x1[:, k])[0, 1] for k in range(3, 12)]
    assert moments_of(x0, x1).correlation()[0] == pytest.approx(np.mean(each), rel=1e-6)
    assert moments_of(x0, np.ones_like(x0)).correlation() == (0.0, 1.0)


def test_the_deviation_is_that_of_unrelated_rows():
    random, found = np.random.default_rng(1), []
    shared = random.standard_normal((60, 1)) + 0.1 * random.standard_normal(
        (60, 20)
    )  # entries of x1 go together
    for _ in range(300):
        moments = moments_of(random.standard_normal((60, 20)), shared, cuts=())
        found.append(moments.correlation()[0] / moments.correlation()[1])
    assert np.std(found) == pytest.approx(1, abs=0.15) and abs(np.mean(found)) < 0.2


def test_statistics_do_not_depend_on_the_cuts(ends):
    a, b = moments_of(*ends), moments_of(*ends, cuts=())
    assert a.correlation() == pytest.approx(b.correlation(), rel=1e-12)
    assert a.mean_std_kurtosis("x1") == pytest.approx(b.mean_std_kurtosis("x1"), rel=1e-12)


# sound stores


@pytest.mark.parametrize("classes", [0, 10], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("x1", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("x0", ["float32", "float16", "seed"])
def test_every_storage_is_sound(tmp_path, x0, x1, classes):
    assert wrong(fill(tmp_path / "pairs", x0=x0, x1=x1, origin=noise_origin(120, classes=classes))) == {}


@pytest.mark.parametrize("classes", [0, 10], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("origin", [FromData, Random])
def test_pairs_from_data_are_sound(tmp_path, origin, classes):
    images = Digits(limit=120, labels=bool(classes))
    assert wrong(fill(tmp_path / "pairs", 120, origin(images, classes))) == {}


def test_random_pairs_may_repeat_images_with_other_noise(tmp_path):
    assert wrong(fill(tmp_path / "pairs", 200, Random(Digits(limit=30), 10), x0="seed", x1="uint8")) == {}


def test_given_labels_need_not_be_balanced(tmp_path):
    assert wrong(fill(tmp_path / "pairs", origin=noise_origin(120, classes=10, labels=[3] * 120))) == {}


def test_a_grown_store_is_sound(tmp_path):
    fill(tmp_path / "pairs", 70)
    fill(tmp_path / "pairs", 170)
    assert wrong(fill(tmp_path / "pairs", 200)) == {}
    assert json.loads((tmp_path / "pairs/manifest.json").read_text())["counts"] == [70, 170, 200]


def test_a_merged_store_is_sound(tmp_path):
    parts = [fill(tmp_path / str(seed), num, noise_origin(num, seed)) for seed, num in enumerate((120, 30))]
    merge(parts, tmp_path / "both")
    assert wrong(tmp_path / "both") == {}


def test_imported_folders_and_zips_are_sound(cli, tmp_path):
    for seed in (0, 1):
        write_folder(tmp_path / f"folders/{seed}", seed=seed, labels="integers")
    write_edm_zip(tmp_path / "images.zip", range(40))
    for source in ("folders", "images.zip"):
        assert cli("couplings", "import", tmp_path / source, "--into", tmp_path / f"of {source}").code == 0
        assert wrong(tmp_path / f"of {source}") == {}


def test_three_channels_are_sound(tmp_path):
    assert (
        wrong(fill(tmp_path / "pairs", origin=noise_origin(120, shape=(3, 8, 8)), x0="seed", x1="uint8"))
        == {}
    )


def test_a_sound_store_is_said_to_be_so(cli, store):
    done = cli("couplings", "verify", store)
    assert done.code == 0 and "WRONG" not in done.out
    assert "3 sound" in done.out and "x0 is the noise" in done.out


# damaged files


@pytest.mark.parametrize("damage", stores.DAMAGE)
def test_a_damaged_file_is_found_and_named(store, damage):
    damage(store / "00001.safetensors")
    found = wrong(store)
    assert found.keys() == {"files", "pairs"} and found["pairs"] == "200"
    assert found["files"].startswith("1 damaged") and "00001.safetensors" in found["files"]


@pytest.mark.parametrize("place", [8, 300, -12_345, -1])
def test_one_flipped_bit_is_found_wherever_it_is(store, place):
    stores.one_bit(store / "00002.safetensors", place)
    assert "00002.safetensors" in wrong(store)["files"]


def test_all_shards_missing_is_still_a_report(store):
    for file in store.glob("*.safetensors"):
        file.unlink()
    found = wrong(store)
    assert "3 damaged" in found["files"] and found["pairs"] == "0"


def test_a_shard_that_the_manifest_forgot_is_found(store):
    edit(store, shards=json.loads((store / "manifest.json").read_text())["shards"][:2])
    assert wrong(store) == {"files": "2 sound", "pairs": "200"}


def test_an_unfinished_store_is_not_sound(tmp_path):
    assert {"files", "pairs"} <= wrong(fill(tmp_path / "half", shards=[0], finish=False)).keys()


def test_a_shard_of_another_dtype_is_found(store):
    reseal(store, lambda arrays: arrays.update(x1=arrays["x1"].astype(np.float32)), shards=[1])
    found = wrong(store)["files"]
    assert "x1 is float32" in found and "the manifest says float16" in found


def test_labels_that_are_missing_are_found(tmp_path):
    store = fill(tmp_path / "pairs", origin=noise_origin(120, classes=10))
    reseal(store, lambda arrays: arrays.pop("label"), shards=[0])
    assert "label" in wrong(store)["files"]


# damaged content under a checksum that fits


def test_swapped_ends_are_found(store):
    reseal(store, lambda arrays: arrays.update(x0=arrays["x1"], x1=arrays["x0"]))
    found = wrong(store)
    assert "ends swapped" in found["direction"]
    assert {"standard deviation of x0", "range of x1", "seed"} <= found.keys()


def test_rows_of_x1_that_lost_their_x0_are_found(store):
    reseal(store, lambda arrays: arrays.update(x1=np.roll(arrays["x1"], 1, 0)))
    found = wrong(store)
    assert (
        found.keys() == {"correlation of x0, x1"}
        and "do not belong together" in found["correlation of x0, x1"]
    )


def test_random_pairs_that_correlate_are_found(store):
    edit(store, origin="random")
    assert wrong(store).keys() == {"correlation of x0, x1"}


def repeat_an_index(arrays):
    arrays["index"][5] = arrays["index"][6]


def test_an_index_that_occurs_twice_is_found(store):
    reseal(store, repeat_an_index, shards=[1])
    found = wrong(store)
    assert found.keys() == {"indices", "seed"} and "00001.safetensors" in found["indices"]


def test_two_shards_of_the_same_indices_are_found(store):
    shards = json.loads((store / "manifest.json").read_text())["shards"]
    shutil.copy(store / shards[0]["file"], store / shards[1]["file"])
    edit(store, shards=[shards[0], {**shards[0], "file": shards[1]["file"]}, shards[2]])
    found = wrong(store)
    assert found.keys() == {"indices"} and "indices 0 … 99" in found["indices"]


def test_indices_other_than_the_manifest_says_are_found(store):
    reseal(store, lambda arrays: arrays.update(index=arrays["index"] + 5000), shards=[2])
    assert {"indices", "seed"} <= wrong(store).keys()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean of x0", lambda x0: x0 + 0.06),
        ("standard deviation of x0", lambda x0: x0 * 1.05),
        ("kurtosis of x0", lambda x0: 12**0.5 * (torch.special.ndtr(torch.from_numpy(x0)).numpy() - 0.5)),
    ],
)
def test_x0_that_is_no_standard_normal_noise_is_found(store, name, change):
    """The last one is uniform noise with mean 0 and variance 1."""
    reseal(store, lambda arrays: arrays.update(x0=change(arrays["x0"].astype(np.float32)).astype(np.float16)))
    assert wrong(store).keys() == {name, "seed"}


def test_noise_of_another_seed_is_found(store):
    reseal(store, lambda arrays: arrays.update(x0=arrays["x0"][::-1].copy()), shards=[1])
    found = wrong(store)
    assert found.keys() == {"seed"} and "00001.safetensors" in found["seed"]


def test_a_probe_of_another_seed_is_found(tmp_path):
    store = fill(tmp_path / "pairs", x0="seed")
    reseal(store, lambda arrays: arrays.update(probe=arrays["probe"] + 0.01), shards=[1])
    found = wrong(store)
    assert found.keys() == {"files", "pairs"} and "gives other noise" in found["files"]


@pytest.mark.parametrize(("x0", "x1"), [("seed", "float16"), ("float16", "uint8")])
def test_a_store_whose_seed_was_changed_is_found(tmp_path, x0, x1):
    store = fill(tmp_path / "pairs", x0=x0, x1=x1)
    shards = json.loads((store / "manifest.json").read_text())["shards"]
    edit(store, shards=[{**shard, "seed": 1} for shard in shards], seeds=[1])
    assert wrong(store).keys() & {"files", "seed"}


def one_entry(value):
    def change(arrays):
        arrays["x1"][3, 0, 2, 2] = value

    return change


@pytest.mark.parametrize("value", [1.5, -1.5, 9.0])
def test_x1_outside_the_range_of_the_manifest_is_found(store, value):
    reseal(store, one_entry(value), shards=[2])
    assert wrong(store).keys() == {"range of x1"}


def test_images_that_were_never_scaled_are_found(tmp_path):
    assert wrong(fill(tmp_path / "pairs", scale=127.0)).keys() == {"range of x1"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_x1_that_is_not_finite_is_found_and_not_called_swapped(store, value):
    reseal(store, one_entry(value), shards=[2])
    found = wrong(store)
    assert "values" in found and "direction" not in found


def test_x0_that_is_not_finite_is_found(store):
    def change(arrays):
        arrays["x0"][3, 0, 2, 2] = np.nan

    reseal(store, change, shards=[2])
    assert "00002.safetensors" in wrong(store)["values"]


@pytest.mark.parametrize(("label", "law"), [(10, "imported"), (-1, "imported"), (3, "balanced")])
def test_labels_that_the_manifest_excludes_are_found(tmp_path, label, law):
    store = fill(tmp_path / "pairs", origin=noise_origin(120, classes=10))
    edit(store, labels={"num_classes": 10, "law": law})
    assert wrong(store) == {}

    def change(arrays):
        arrays["label"][5] = label

    reseal(store, change, shards=[1])
    found = wrong(store)
    assert found.keys() == {"labels"} and "00001.safetensors" in found["labels"]


def test_the_command_tells_what_is_wrong_and_fails(cli, store, tmp_path):
    fine = shutil.copytree(store, tmp_path / "fine")
    (store / "00000.safetensors").unlink()
    for given in ([store], [store, fine], [fine, store]):
        done = cli("couplings", "verify", *given)
        assert done.code == 1 and "WRONG  files" in done.out and "00000.safetensors" in done.out
        assert "Traceback" not in done.err


def test_no_store_is_one_error(cli, tmp_path):
    assert f"no couplings in {tmp_path}" in cli("couplings", "verify", tmp_path).error
    with pytest.raises(FlowlitError, match="no couplings"):
        verify(tmp_path)
