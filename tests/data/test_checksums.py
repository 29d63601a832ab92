"""A folder is known by the names and the content of its files, wherever and whenever they were written."""

import os
import shutil

import pictures
import pytest

from flowlit.data import ImageFolder, ImageZip, checksums, long_work
from flowlit.data.provenance import are_other, described
from flowlit.errors import FlowlitError


def files(count=12):
    return {f"{'ab'[i % 2]}/{i:03}.png": pictures.encoded(pictures.noise(8, 8, 3) + i) for i in range(count)}


@pytest.fixture
def read(monkeypatch, tmp_path):
    """Count files that are read for their checksums, as in a process of its own; all of it is slow."""
    places = []
    checksum = checksums._checksum
    monkeypatch.setattr(checksums, "_checksum", lambda path: places.append(path) or checksum(path))
    monkeypatch.setattr(long_work, "SLOW", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def count(images):
        places.clear()
        monkeypatch.setattr(checksums._KEPT, "known", {})
        return images.fingerprint, len(places)

    return count


def copied(place, to):
    """Copy a folder, as ``cp -r`` does, with other times."""
    shutil.copytree(place, to, copy_function=shutil.copyfile)
    for i, path in enumerate(sorted(to.rglob("*.png"))):
        os.utime(path, ns=(i, 10**9 * i))
    return str(to)


@pytest.mark.parametrize("part", ["all", "train", "held_out"])
def test_a_copied_folder_is_the_same_set(part, tmp_path):
    place = pictures.into_folder(tmp_path / "images", files())
    copy = copied(place, tmp_path / "elsewhere/copy")
    first, second = (ImageFolder(root, part=part, held_out=0.3) for root in (place, copy))
    assert first.fingerprint == second.fingerprint
    assert not are_other(described(first), described(second))


def changed(place):
    (place / "a/000.png").write_bytes((place / "a/002.png").read_bytes())


def renamed(place):
    (place / "a/000.png").rename(place / "b/000.png")


def added(place):
    shutil.copy(place / "a/000.png", place / "b/x.png")


def removed(place):
    (place / "b/001.png").unlink()


@pytest.mark.parametrize("change", [changed, renamed, added, removed])
@pytest.mark.parametrize("part", ["all", "train"])
def test_other_names_or_content_are_another_set(change, part, tmp_path):
    place = pictures.into_folder(tmp_path / "images", files())
    copied(place, tmp_path / "copy")
    change(tmp_path / "copy")
    first, second = (ImageFolder(str(tmp_path / name), part=part) for name in ("images", "copy"))
    assert first.fingerprint != second.fingerprint
    assert are_other(described(first), described(second))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_parts_of_a_set_and_of_its_copy_are_no_other_data(kind, tmp_path):
    if kind == "folder":
        place = pictures.into_folder(tmp_path / "images", files())
        copy, read = copied(place, tmp_path / "copy"), ImageFolder
    else:
        place = pictures.into_zip(tmp_path / "images.zip", files())
        copy, read = shutil.copyfile(place, tmp_path / "copy.zip"), ImageZip
    train, whole, held_out = read(place, part="train"), read(str(copy)), read(str(copy), part="held_out")
    assert len({images.fingerprint for images in (train, whole, held_out)}) == 3
    assert not are_other(described(train), described(whole))
    assert not are_other(described(train), described(held_out))


@pytest.mark.parametrize("part", ["all", "train"])
def test_files_are_read_once_until_one_changes(part, read, tmp_path):
    place = pictures.into_folder(tmp_path / "images", files())
    before, count = read(ImageFolder(place, part=part))
    assert count == 12
    assert read(ImageFolder(place, part=part)) == (before, 0)
    os.utime(tmp_path / "images/a/000.png", ns=(1, 1))
    assert read(ImageFolder(place, part=part)) == (before, 12)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"crc32": "00"}', b'{"crc32": "00000000"}', b'{"crc32": 1}']
)
def test_a_damaged_record_of_checksums_is_made_again(content, read, tmp_path):
    images = ImageFolder(pictures.into_folder(tmp_path / "images", files()))
    before, _ = read(images)
    [record] = (tmp_path / "cache").rglob("*.checksums.json")
    record.write_bytes(content)
    assert read(ImageFolder(images.root)) == (before, 12)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    place = pictures.into_folder(tmp_path / "images", files())
    images = ImageFolder(place, part="train")
    assert images._whole
    (tmp_path / "images/a/000.png").unlink()
    with pytest.raises(FlowlitError, match=r"a/000.png cannot be read .*mend or remove it"):
        len(images)
