"""A held-out part is chosen by the content of files, and stays where it is."""

import labelled
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlit.data import ImageFolder, ImageZip
from flowlit.data.split import chosen
from flowlit.errors import FlowlitError

CHECKSUMS = st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=60)


@settings(derandomize=True, deadline=None)
@given(CHECKSUMS, st.floats(0, 0.9))
def test_the_parts_are_the_whole_and_equal_files_are_in_one(checksums, share):
    held_out = chosen(checksums, "held_out", share, "x")
    assert held_out, "one is held out at least"
    assert chosen(checksums, "all", share, "x") == list(range(len(checksums)))
    others = set(range(len(checksums))) - {*held_out}
    assert not {checksums[i] for i in others} & {checksums[i] for i in held_out}
    if others:
        assert chosen(checksums, "train", share, "x") == sorted(others)


@settings(derandomize=True, deadline=None)
@given(CHECKSUMS, CHECKSUMS, st.floats(0.05, 0.9))
def test_what_is_in_training_stays_there_when_files_are_added(before, added, share):
    held_out = {before[i] for i in chosen(before, "held_out", share, "x")}
    both = [*before, *added]
    later = {both[i] for i in chosen(both, "held_out", share, "x")}
    if len(held_out) > 1:  # a single one may be the least of all
        assert {checksum for checksum in before if checksum in later} == held_out


def test_the_share_is_met():
    assert len(chosen(range(10_000), "held_out", 0.1, "x")) == pytest.approx(1000, abs=100)


def files(count):
    return {f"a/{i:03}.png": pictures.encoded(pictures.noise(8, 8, 3) + i) for i in range(count)}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_and_a_zip_of_the_same_files_hold_out_the_same(tmp_path, kind):
    place = pictures.into_folder(tmp_path / "images", files(40))
    archive = pictures.into_zip(tmp_path / "images.zip", files(40))
    read = (
        (lambda **how: ImageFolder(place, **how))
        if kind == "folder"
        else (lambda **how: ImageZip(archive, **how))
    )
    parts = {part: read(part=part, held_out=0.2) for part in ("all", "train", "held_out")}
    names = {
        part: [images.where(i).rpartition("/")[2] for i in range(len(images))]
        for part, images in parts.items()
    }
    assert sorted(names["train"] + names["held_out"]) == names["all"]
    other = ImageZip(archive, part="held_out", held_out=0.2)
    assert names["held_out"] == [other.where(i).rpartition("/")[2] for i in range(len(other))]
    assert len({images.fingerprint for images in parts.values()}) == 3
    assert parts["train"].fingerprint != read(part="train", held_out=0.3).fingerprint
    assert read().fingerprint == parts["all"].fingerprint


def test_a_part_keeps_the_classes_of_the_whole(tmp_path):
    root = labelled.folder(tmp_path / "images", {"cat": 9, "dog": 1})
    part = ImageFolder(str(root), labels=True, part="train")
    assert part.classes == ("cat", "dog") and len(part) < 10


def test_a_part_without_images_is_refused(tmp_path):
    place = pictures.into_folder(tmp_path / "images", files(5))
    with pytest.raises(FlowlitError, match="of 5 images, 1 held out, none is left for part: train"):
        len(ImageFolder(place, part="train", held_out=1.0))
