"""Features on disk: what was made once is not made again, and nothing tells in which order, by whom, or in
how many files.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from flowlit.metrics.feature_cache import FeatureCache


def rows(*index, width=3):
    """Rows that are functions of their index."""
    index = torch.tensor(index)
    return {"index": index, "f": index[:, None] * 10.0 + torch.arange(width), "nfe": index * 2}


def fill(folder, *batches, size=4):
    bank = FeatureCache(folder, size)
    for batch in batches:
        bank.add(rows(*batch))
    bank.flush()
    return bank


def contents(bank, num):
    with bank.gathered("f", num) as features:
        return features.clone(), *bank.read("nfe", num)


def is_all_of(found, *index):
    expected = rows(*index)
    return (
        torch.equal(found[0], expected["f"])
        and torch.equal(found[1], expected["index"])
        and torch.equal(found[2], expected["nfe"])
    )


@pytest.mark.parametrize(
    "batches",
    [
        [range(10)],
        [range(5), range(5, 10)],
        [[9, 0, 4], [1, 8], [2, 3, 5, 6, 7]],
        [range(0, 10, 2), range(1, 10, 2)],
    ],
    ids=["one", "two", "shuffled", "two ranks"],
)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_what_is_read_is_what_was_added_in_the_order_of_indices(tmp_path, batches, size):
    bank = fill(tmp_path, *batches, size=size)
    assert bank.stored().tolist() == list(range(10))
    assert is_all_of(contents(FeatureCache(tmp_path), 10), *range(10))


def test_rows_that_somebody_made_twice_count_once(tmp_path):
    fill(tmp_path, [0, 1, 2])
    fill(tmp_path, [4, 2, 1, 5])
    assert len(list(tmp_path.iterdir())) == 2
    bank = FeatureCache(tmp_path)
    assert bank.stored().tolist() == [0, 1, 2, 4, 5]
    assert is_all_of(contents(bank, 10), 0, 1, 2, 4, 5)


@pytest.mark.parametrize("num", [1, 3, 6, 7])
def test_fewer_images_than_there_are_may_be_measured(tmp_path, num):
    bank = fill(tmp_path, [5, 3, 1], [0, 2, 4, 6])
    assert is_all_of(contents(bank, num), *range(num))


def test_a_file_is_written_as_soon_as_its_rows_have_come(tmp_path):
    bank = FeatureCache(tmp_path / "features", 4)
    bank.add(rows(0, 1, 2))
    assert not (tmp_path / "features").exists() and bank.stored().tolist() == []
    bank.add(rows(3, 4))
    assert [path.name.split("-")[0] for path in (tmp_path / "features").iterdir()] == ["00000000"]
    bank.add(rows(5))
    assert bank.stored().tolist() == [0, 1, 2, 3, 4], "what is not on disk would be lost, and does not count"
    bank.flush()
    bank.flush()
    assert bank.stored().tolist() == [0, 1, 2, 3, 4, 5] and len(list((tmp_path / "features").iterdir())) == 2


def test_it_goes_on_in_another_process_with_more_images(tmp_path):
    fill(tmp_path, range(6))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    known = set(FeatureCache(tmp_path).stored().tolist())
    fill(tmp_path, [i for i in range(11) if i not in known])
    assert is_all_of(contents(FeatureCache(tmp_path), 11), *range(11))
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    "damage", [0, 5, 60, -1], ids=["empty", "torn head", "torn in the header", "last byte lost"]
)
def test_rows_of_a_damaged_file_are_made_again(tmp_path, damage):
    fill(tmp_path, [0, 1, 2, 3], [4, 5, 6, 7])
    (torn,) = tmp_path.glob("00000004-*.safetensors")
    torn.write_bytes(torn.read_bytes()[:damage])
    FeatureCache(tmp_path).clean()
    assert FeatureCache(tmp_path).stored().tolist() == [0, 1, 2, 3]
    assert not torn.exists()
    fill(tmp_path, [4, 5, 6, 7])
    assert is_all_of(contents(FeatureCache(tmp_path), 8), *range(8))


def test_half_written_files_are_not_read_and_none_stays(tmp_path):
    bank = fill(tmp_path, range(5))
    (tmp_path / ".00000000.safetensors.abcd.tmp").write_bytes(b"half")
    assert bank.stored().tolist() == list(range(5))
    bank.clean()
    with bank.gathered("f", 5):
        assert len(list(tmp_path.iterdir())) == 2, "the features, while they are needed"
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["00000000"]


def test_the_temporary_file_goes_when_measuring_fails(tmp_path):
    bank = fill(tmp_path, range(5))
    with pytest.raises(KeyError), bank.gathered("f", 5):
        raise KeyError
    assert not list(tmp_path.glob(".*"))


def test_gathered_features_live_in_a_file(tmp_path):
    """Half a gigabyte, gathered from files of eight megabytes: the heap of the process grows by a few files
    at most.
    """
    from safetensors.torch import save_file

    width, each, files = 8192, 256, 16
    for i in range(files):
        index = torch.arange(i * each, (i + 1) * each)
        save_file(
            {"index": index, "f": torch.full((each, width), float(i))},
            tmp_path / f"{i * each:08d}.safetensors",
        )

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

    before = anonymous()
    with FeatureCache(tmp_path).gathered("f", each * files) as features:
        grown = anonymous() - before
        assert features.shape == (each * files, width) and features[::each, 0].tolist() == list(range(files))
    assert grown < 64, f"{grown:.0f} MiB for {each * files * width * 4 / 2**20:.0f} MiB of features"


def test_files_hold_nothing_but_rows(tmp_path):
    """Plain tensors: nothing in them can run."""
    fill(tmp_path, range(3))
    (path,) = tmp_path.iterdir()
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["f", "index", "nfe"] and file.get_tensor("index").dtype == torch.int64


def test_an_empty_folder_knows_nothing(tmp_path):
    assert (
        FeatureCache(tmp_path / "nowhere").stored().tolist() == []
        and FeatureCache(tmp_path).stored().dtype == np.int64
    )
