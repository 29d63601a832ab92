import io
import json
import multiprocessing
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matrix import few
from PIL import Image
from torch.utils.data import DataLoader

from flowlit.data import CIFAR10, Digits, ImageFolder, ImageZip
from flowlit.errors import FlowlitError

REAL = Path(__file__).parents[3] / "shared" / "datasets" / "cifar10"


def picture(number, size=4, channels=3):
    """A picture that says which one it is in every pixel."""
    return torch.full((channels, size, size), number, dtype=torch.uint8)


def png(image):
    array = image.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "PNG")
    return file.getvalue()


def write_zip(path, numbers, labels=None, size=4, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for number in numbers:
            archive.writestr(f"00000/img{number:08d}.png", png(picture(number, size)))
        if labels is not None:
            pairs = [[f"00000/img{n:08d}.png", label] for n, label in zip(numbers, labels, strict=True)]
            archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return str(path)


def write_folder(root, names, size=4):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(picture(number, size)))
    return str(root)


def numbers(images):
    return [int(images[i]["x1"][0, 0, 0]) for i in range(len(images))]


def labels(images):
    return [int(images[i]["cond"]["label"]) for i in range(len(images))]


# digits


@pytest.mark.parametrize(("part", "count"), [("all", 1797), ("train", 1438), ("test", 359)])
def test_digits_have_their_sizes(part, count):
    digits = Digits(part)
    assert len(digits) == count
    item = digits[count - 1]
    assert item["x1"].shape == (1, 8, 8) and item["x1"].dtype == torch.uint8
    assert item["cond"]["label"].dtype == torch.int64 and item["cond"]["label"].shape == ()
    assert sorted(digits.data[1].unique().tolist()) == list(range(10))


def test_digits_split_is_fixed_and_complete():
    images = {part: Digits(part).data[0] for part in ("all", "train", "test")}
    assert torch.equal(images["test"], images["all"][4::5])
    rest = [i for i in range(1797) if i % 5 != 4]
    assert torch.equal(images["train"], images["all"][rest])


def test_digits_use_the_whole_range_of_grey():
    levels = Digits().data[0].unique()
    assert len(levels) == 17 and levels.min() == 0 and levels.max() == 255


def test_digits_without_labels():
    assert Digits(labels=False)[0]["cond"] == {}


def test_digits_refuse_another_part():
    with pytest.raises(FlowlitError, match="part is 'validation'; expected 'all', 'train' or 'test'"):
        Digits("validation")


# limits


def test_limit_takes_the_first_images():
    assert torch.equal(Digits(limit=7).data[0], Digits().data[0][:7])


@pytest.mark.parametrize("kind", ["digits", "folder", "zip"])
@pytest.mark.parametrize(
    ("limit", "message"), [(9999, "limit is 9999, but it holds"), (0, "limit is 0"), (-1, "limit is -1")]
)
def test_limits_that_make_no_sense(kind, limit, message, tmp_path):
    makes = {
        "digits": Digits,
        "folder": partial(ImageFolder, write_folder(tmp_path, ["a.png", "b.png"])),
        "zip": partial(ImageZip, write_zip(tmp_path / "a.zip", [1, 2])),
    }
    with pytest.raises(FlowlitError, match=message):
        len(makes[kind](limit=limit))


# CIFAR-10


def test_cifar10_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        import urllib.error

        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    images = CIFAR10(str(tmp_path / "cifar"))
    with pytest.raises(FlowlitError, match=r"could not be downloaded.*cifar-10-python.tar.gz.*ImageZip"):
        len(images)


def test_cifar10_that_must_not_be_downloaded(tmp_path):
    with pytest.raises(FlowlitError, match=f"CIFAR-10 is not in {tmp_path}"):
        len(CIFAR10(str(tmp_path), download=False))


def test_cifar10_images_have_channels_first(monkeypatch):
    class Stub:
        data, targets = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3), [7, 3]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *args, **kwargs: Stub)
    images = CIFAR10(labels=True)
    assert images[1]["x1"].shape == (3, 32, 32) and labels(images) == [7, 3]
    assert images[1]["x1"][2, 5, 9] == Stub.data[1, 5, 9, 2]


# folders


def test_folder_reads_in_alphabetical_order(tmp_path):
    images = ImageFolder(write_folder(tmp_path, ["b.png", "a.png", "c/d.PNG"]))
    assert numbers(images) == [1, 0, 2] and images[0]["cond"] == {}
    assert torch.equal(images[2]["x1"], picture(2))


def test_folder_labels_are_its_subfolders(tmp_path):
    images = ImageFolder(
        write_folder(tmp_path, ["dog/0.png", "cat/0.png", "dog/deep/1.png", "emu/0.png"]), labels=True
    )
    assert numbers(images) == [1, 0, 2, 3] and labels(images) == [0, 1, 1, 2]


def test_folder_converts_to_grey_and_to_colour(tmp_path):
    root = write_folder(tmp_path, ["a.png"])
    assert ImageFolder(root, channels=1)[0]["x1"].shape == (1, 4, 4)
    (tmp_path / "a.png").write_bytes(png(picture(9, channels=1)))
    assert torch.equal(ImageFolder(root, channels=3)[0]["x1"], picture(9))


def test_folder_that_is_missing_or_empty(tmp_path):
    with pytest.raises(FlowlitError, match=r"does not exist; check data.coupling.images.root"):
        len(ImageFolder(str(tmp_path / "nowhere")))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(FlowlitError, match=r"holds no images; expected at least one .*png"):
        len(ImageFolder(str(tmp_path)))


def test_folder_finds_a_broken_file_before_training(tmp_path):
    root = write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(FlowlitError, match=r"b.png is not a readable image"):
        len(ImageFolder(root))


def test_folder_with_images_of_another_size(tmp_path):
    images = ImageFolder(write_folder(tmp_path, ["a.png"]), resolution=32)
    with pytest.raises(FlowlitError, match=r"a.png is 4×4 pixels, expected 32×32"):
        images[0]


def test_folder_labels_need_subfolders(tmp_path):
    with pytest.raises(FlowlitError, match="labels need one sub-folder a class"):
        len(ImageFolder(write_folder(tmp_path, ["a.png", "b/c.png"]), labels=True))


def test_folder_knows_its_classes_without_a_walk_per_image(tmp_path, monkeypatch):
    images = ImageFolder(write_folder(tmp_path, [f"{i % 3}/{i:03d}.png" for i in range(60)]), labels=True)
    images[0]
    calls, relative_to = [], Path.relative_to
    monkeypatch.setattr(Path, "relative_to", lambda *args: calls.append(1) or relative_to(*args))
    assert labels(images) == [0] * 20 + [1] * 20 + [2] * 20
    assert len(calls) <= 120


# zips


def test_zip_shards_follow_each_other(tmp_path):
    paths = [write_zip(tmp_path / "0.zip", [3, 1], [7, 5]), write_zip(tmp_path / "1.zip", [2], [9])]
    images = ImageZip(paths, labels=True)
    assert numbers(images) == [1, 3, 2] and labels(images) == [5, 7, 9]
    assert torch.equal(images[2]["x1"], picture(2)) and images[2]["cond"]["label"].dtype == torch.int64
    assert ImageZip(paths[0])[0]["cond"] == {}


def test_zip_without_labels(tmp_path):
    path = write_zip(tmp_path / "0.zip", [1, 2])
    with pytest.raises(FlowlitError, match=r"0.zip: labels asked for, but dataset.json is missing"):
        len(ImageZip(path, labels=True))
    assert len(ImageZip(path)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "dataset.json is no list of labels"),
        ('{"labels": null}', "dataset.json has no labels"),
        ('{"labels": [["00000/img00000001.png", 3]]}', "dataset.json has no label for 00000/img00000002.png"),
        ("[]", "dataset.json is no list of labels"),
    ],
)
def test_zip_with_broken_or_incomplete_labels(content, message, tmp_path):
    path = write_zip(tmp_path / "0.zip", [1, 2])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("dataset.json", content)
    with pytest.raises(FlowlitError, match=f"{message}.*set labels: false or repair it"):
        len(ImageZip(path, labels=True))


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
@pytest.mark.parametrize("place", ["start", "middle"])
def test_zip_with_a_broken_member(compression, place, tmp_path):
    path = tmp_path / "0.zip"
    write_zip(path, [1, 2], compression=compression)
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[1]
    content = bytearray(path.read_bytes())
    begin = member.header_offset + 30 + len(member.filename)
    at = begin if place == "start" else begin + member.compress_size // 2
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    images = ImageZip(str(path))
    assert numbers([images[0]]) == [1]
    with pytest.raises(FlowlitError, match=r"0.zip:00000/img00000002.png"):
        images[1]


def test_zip_that_is_missing_or_no_zip(tmp_path):
    with pytest.raises(FlowlitError, match=r"nowhere.zip does not exist"):
        len(ImageZip(str(tmp_path / "nowhere.zip")))
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(FlowlitError, match=r"torn.zip cannot be read"):
        len(ImageZip(str(tmp_path / "torn.zip")))


def test_zip_with_images_of_another_size(tmp_path):
    with pytest.raises(FlowlitError, match=r"img00000001.png is 4×4 pixels, expected 8×8"):
        ImageZip(write_zip(tmp_path / "0.zip", [1]), resolution=8)[0]


def test_zip_names_never_become_paths(tmp_path):
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as archive:
        archive.writestr("../../escaped.png", png(picture(5)))
    assert numbers(ImageZip(str(tmp_path / "0.zip"))) == [5]
    assert not list(tmp_path.parent.rglob("escaped.png"))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_zip_is_read_by_several_forked_workers_at_once(tmp_path):
    """A forked worker shares the file position with its parent, so each needs a file of its own."""
    images = ImageZip(write_zip(tmp_path / "0.zip", range(200)))
    images[0]
    loader = DataLoader(images, batch_size=1, num_workers=2, multiprocessing_context="fork")
    for _ in range(3):
        assert [int(batch["x1"][0, 0, 0, 0]) for batch in loader] == list(range(200))


def test_zip_is_opened_by_many_threads_at_once(tmp_path):
    path = write_zip(tmp_path / "0.zip", range(64))
    with ThreadPoolExecutor(16) as pool:
        for _ in range(20):
            images = ImageZip(path)
            assert images.listed() == 64
            assert list(pool.map(lambda i, images=images: int(images[i]["x1"][0, 0, 0]), range(64))) == list(
                range(64)
            )


def test_another_process_opens_the_zip_again(tmp_path, monkeypatch):
    images = ImageZip(write_zip(tmp_path / "0.zip", [1]))
    ours = images._open(0)
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert images._open(0) is not ours


# fingerprints and constructors


def test_fingerprints_name_the_content(tmp_path):
    one, same, other = (write_zip(tmp_path / f"{n}.zip", [1, k]) for n, k in (("a", 2), ("b", 2), ("c", 3)))
    assert ImageZip(one).fingerprint == ImageZip(same).fingerprint != ImageZip(other).fingerprint
    assert ImageZip(one, limit=1).fingerprint != ImageZip(one).fingerprint
    assert Digits("train").fingerprint == Digits("train").fingerprint != Digits("test").fingerprint
    folder = write_folder(tmp_path / "f", ["a.png"])
    before = ImageFolder(folder).fingerprint
    write_folder(tmp_path / "f", ["a.png", "b.png"])
    assert ImageFolder(folder).fingerprint != before


def test_constructors_touch_no_disk():
    ImageZip("/nowhere/a.zip"), ImageFolder("/nowhere"), CIFAR10("/nowhere")


@pytest.mark.parametrize("kind", ["digits", "folder", "zip"])
def test_images_can_be_sent_to_workers(kind, tmp_path):
    if kind == "digits":
        images = Digits(limit=3)
    elif kind == "folder":
        images = ImageFolder(write_folder(tmp_path, ["x/a.png", "y/b.png"]), labels=True)
    else:
        images = ImageZip(write_zip(tmp_path / "0.zip", [1, 2]))
    assert numbers(images)
    again = pickle.loads(pickle.dumps(images))
    assert numbers(again) == numbers(images)


# the real thing


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no CIFAR-10 zips in {REAL}")
@pytest.mark.parametrize(("shards", "count"), few([("test.zip", 10_000), ("train-*.zip", 50_000)], 1))
def test_real_cifar10(shards, count):
    images = ImageZip([str(path) for path in sorted(REAL.glob(shards))], resolution=32, labels=True)
    assert len(images) == count
    assert sorted({label for _, _, label in images.index}) == list(range(10))
    sample = torch.stack([images[i]["x1"] for i in range(0, count, count // 2000)]).double() / 255
    assert sample.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.01)
