"""Classes have names, and numbers that hold across sets, splits and moments."""

import json
import os
import shutil
import zipfile

import labelled
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowlit.commands.pipeline.headers import _Folder
from flowlit.data import CIFAR10, Digits, ImageFolder, ImageZip
from flowlit.data.classes import check_occurring, check_same_names, listed, numbered
from flowlit.data.labels import names_in
from flowlit.errors import FlowlitError
from flowlit.generators.labels import labels_of


def folder(root, **arguments):
    return ImageFolder(str(root), **{"labels": True, "channels": 1, **arguments})


def archive(*paths, **arguments):
    return ImageZip([str(path) for path in paths], **{"labels": True, "channels": 1, **arguments})


# folders


def test_an_empty_class_folder_has_a_number(tmp_path):
    images = folder(labelled.folder(tmp_path, {"a": 2, "b": 0, "c": 1}))
    assert images.classes == ("a", "b", "c") and labelled.labels(images) == [0, 0, 2]
    assert images.label_counts() == {0: 2, 2: 1}


def test_a_limit_leaves_the_numbers_of_classes(tmp_path):
    root = labelled.folder(tmp_path, {"a": 2, "b": 2, "c": 2})
    assert folder(root, limit=3).classes == folder(root).classes == ("a", "b", "c")
    assert labelled.labels(folder(root, limit=3)) == [0, 0, 1]


def test_numeric_names_count_as_numbers(tmp_path):
    images = folder(labelled.folder(tmp_path, {"0": 1, "1": 1, "2": 1, "10": 1}))
    assert images.classes == ("0", "1", "2", "10")
    assert labelled.labels(images) == [0, 1, 3, 2], "files come in alphabetical order, as ever"


def test_a_missing_class_of_one_split_does_not_shift_the_others(tmp_path):
    train = labelled.folder(tmp_path / "train", {"0": 1, "1": 1, "2": 1})
    part = labelled.folder(tmp_path / "val", {"1": 1, "2": 1})
    with pytest.raises(
        FlowlitError, match=r"\[1, 2\], the other \[0, 1, 2\]: class 0 is '1' here and '0' there"
    ):
        check_same_names(folder(part).classes, folder(train).classes, "one", "the other")
    for classes in ([0, 1, 2], ["0", "1", "2"], str(train)):
        images = folder(part, classes=classes)
        assert images.classes == ("0", "1", "2") and labelled.labels(images) == [1, 2]


def test_numbers_that_are_given_are_used(tmp_path):
    root = labelled.folder(tmp_path, {"cat": 1, "dog": 2})
    images = folder(root, classes=["dog", "emu", "cat"])
    assert labelled.labels(images) == [2, 0, 0] and images.classes == ("dog", "emu", "cat")


def test_a_linked_class_folder_is_a_class(tmp_path):
    root = labelled.folder(tmp_path / "set", {"dog": 1})
    store = labelled.folder(tmp_path / "store", {"cat": 2})
    (root / "cat").symlink_to(store / "cat")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "__MACOSX").mkdir()
    assert folder(root).classes == ("cat", "dog") and labelled.labels(folder(root)) == [0, 0, 1]


def test_without_labels_there_are_no_classes(tmp_path):
    images = folder(labelled.folder(tmp_path, {"a": 1}), labels=False)
    assert images.classes is None and images.label_counts() is None


# fingerprints


def test_sets_whose_files_decide_their_classes_keep_their_fingerprint(tmp_path):
    root = labelled.folder(tmp_path, {"a": 1, "b": 1})
    plain = folder(root, labels=False).fingerprint
    assert folder(root).fingerprint == plain == folder(root, classes=["a", "b"]).fingerprint
    others = {
        folder(root, classes=names).fingerprint for names in (["b", "a"], ["a", "b", "c"], ["0", "a", "b"])
    }
    assert len(others | {plain}) == 4
    (root / "aa").mkdir()
    assert folder(root).fingerprint not in {plain, *others}, "b has another number now"


# zips


def test_a_zip_has_names_of_classes(tmp_path):
    path = labelled.archive(
        tmp_path / "x.zip", [["1.png", 1], ["0.png", 0], ["2.png", 1]], classes=["cat", "dog"]
    )
    images = archive(path)
    assert images.classes == ("cat", "dog") and labelled.labels(images) == [0, 1, 1]
    assert images.label_counts() == {0: 1, 1: 2}
    again = archive(path, classes=["emu", "dog", "cat"])
    assert again.classes == ("emu", "dog", "cat") and labelled.labels(again) == [2, 1, 1]
    assert again.fingerprint != images.fingerprint
    assert archive(path, labels=False).classes is None


def test_a_zip_without_names_takes_those_that_are_given(tmp_path):
    path = labelled.archive(tmp_path / "x.zip", [["0.png", 1], ["1.png", 0]])
    assert archive(path).classes is None and labelled.labels(archive(path)) == [1, 0]
    assert archive(path, classes=["cat", "dog"]).classes == ("cat", "dog")
    assert labelled.labels(archive(path, classes=["cat", "dog"])) == [1, 0]


def test_a_folder_and_a_zip_are_numbered_alike(tmp_path):
    path = labelled.archive(tmp_path / "x.zip", [["0.png", 0]], classes=["dog", "cat"])
    root = labelled.folder(tmp_path / "set", {"cat": 1, "dog": 1})
    assert folder(root, classes=str(path)).classes == names_in(str(path)) == ("dog", "cat")
    assert labelled.labels(archive(path, classes=str(root))) == [1]


def test_shards_of_a_zip_share_their_names(tmp_path):
    shards = [
        labelled.archive(tmp_path / f"{i}.zip", [["a.png", i]], classes=["cat", "dog"]) for i in range(2)
    ]
    assert archive(*shards).classes == ("cat", "dog") and labelled.labels(archive(*shards)) == [0, 1]


def test_labels_of_dataset_json_that_cannot_be_classes_are_refused(tmp_path):
    for labels, words in (
        ([["0.png", 0], ["1.png", 1], ["0.png", 2]], "names 0.png twice"),
        ([["0.png", 0.2], ["1.png", 1.9]], "the class of 0.png is 0.2"),
        ([["0.png", -1], ["1.png", 0]], "the class of 0.png is -1"),
    ):
        with pytest.raises(FlowlitError, match=words):
            len(archive(labelled.archive(tmp_path / "x.zip", labels)))


# in memory


def test_sets_in_memory_have_names():
    assert Digits().classes == tuple("0123456789") and Digits(labels=False).classes is None
    assert sum(Digits().label_counts().values()) == 1797 and set(Digits().label_counts()) == set(range(10))
    assert CIFAR10().classes[3] == "cat" and len(CIFAR10().classes) == 10


# rules


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(st.sampled_from("0123456789ab"), min_size=1, max_size=3)))
def test_numbers_of_names_do_not_depend_on_their_order(names):
    ordered = numbered(names)
    assert ordered == numbered(reversed(names)) == numbered(ordered) and set(ordered) == set(names)
    if all(name.isdigit() for name in names):
        assert [int(name) for name in ordered] == sorted(int(name) for name in ordered)
    else:
        assert list(ordered) == sorted(ordered)


@pytest.mark.parametrize(
    ("generated", "counts", "classes", "words"),
    [
        (range(3), {1: 40, 2: 40}, 3, r"class 0 \(a\) of 3 does not occur in here"),
        (range(4), {1: 1}, 4, r"classes 0 \(a\), 2 \(c\), 3 of 4 do not occur"),
        (range(2), {0: 1, 5: 1}, 2, "run from 0 to 5, but the network knows 2 classes; .* num_classes: 6"),
        (range(100), {99: 1}, 100, r"classes 0 \(a\), .* … 99 in all of 100"),
    ],
)
def test_classes_that_are_generated_but_never_trained_are_refused(generated, counts, classes, words):
    with pytest.raises(FlowlitError, match=words):
        check_occurring(generated, counts, classes, ("a", "b", "c"), "here")


def test_classes_that_occur_or_are_not_generated_are_fine():
    check_occurring(range(2), {0: 1, 1: 1}, 2, None, "here")
    check_occurring([1], {1: 5}, 3, None, "here")
    check_same_names(None, ("a",), "a", "b")
    check_same_names(["a"], ("a",), "a", "b")


def test_long_lists_are_cut():
    names = [f"class{i}" for i in range(1000)]
    with pytest.raises(FlowlitError) as error:
        check_same_names(names, [*names[:-1], "other"], "one", "two")
    assert len(str(error.value)) < 500 and "class 999 is 'class999' here and 'other' there" in str(
        error.value
    )
    assert listed(names).endswith("… 1000 in all]")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=7), inner, max_size=3)
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps({"labels": value}).encode()),
    )
)
def test_any_dataset_json_gives_labels_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.png", labelled.png(3))
        file.writestr("dataset.json", content)
    try:
        images = archive(path)
        assert labelled.labels(images) == [images.index[0][2]]
    except FlowlitError as error:
        assert "dataset.json" in str(error) and "\n" not in str(error)


# spellings

CAFE = ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}")


def test_both_spellings_of_a_name_are_one_class(tmp_path):
    """HFS+ writes the second one; a copy of a set had classes in another order, which looked the same."""
    sets = [folder(labelled.folder(tmp_path / str(i), {name: 1, "cafg": 2})) for i, name in enumerate(CAFE)]
    assert sets[0].classes == sets[1].classes and set(sets[0].classes) == {CAFE[0], "cafg"}
    counts = [images.label_counts() for images in sets]
    assert counts[0] == counts[1] == {0: 2, 1: 1}
    check_same_names([CAFE[0]], [CAFE[1]], "one", "the other")
    given = folder(tmp_path / "0", classes=[CAFE[1], "cafg"])
    assert given.classes == (CAFE[0], "cafg") and given.label_counts() == {0: 1, 1: 2}
    assert folder(tmp_path / "0", classes=str(tmp_path / "1")).classes == sets[0].classes
    assert _Folder(str(tmp_path / "1")).classes() == {CAFE[0]: 1, "cafg": 2}


def test_labels_of_a_zip_find_their_images_in_either_spelling(tmp_path):
    names = [f"{CAFE[1]}.png", "b.png"]
    path = labelled.archive(
        tmp_path / "a.zip", [[f"{CAFE[0]}.png", 1], ["b.png", 0]], names, (*CAFE[1:], "b")
    )
    images = archive(path)
    assert images.classes == (CAFE[0], "b") and sorted(labelled.labels(images)) == [0, 1]
    both = labelled.archive(tmp_path / "b.zip", [[f"{CAFE[0]}.png", 0], [f"{CAFE[1]}.png", 1]])
    assert labelled.labels(archive(both)) in ([0, 1], [1, 0])


def test_bytes_that_are_no_utf_8_are_a_name(tmp_path):
    root = os.fsencode(labelled.folder(tmp_path, {"b": 1}))
    os.mkdir(os.path.join(root, b"\xe9"))
    shutil.copy(tmp_path / "b/000.png", os.path.join(root, b"\xe9/a.png"))
    images = folder(tmp_path)
    assert set(images.classes) == {"\\udce9", "b"} and images.label_counts() == {0: 1, 1: 1}
    json.dumps(images.classes, ensure_ascii=False).encode()


@pytest.mark.parametrize("spelling", CAFE)
def test_a_class_is_generated_by_its_name_in_either_spelling(spelling):
    assert labels_of(spelling, 2, ["b", CAFE[1]]) == labels_of(spelling, 2, ["b", CAFE[0]]) == 1


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("a", "A"), ("1", "\N{SUPERSCRIPT ONE}"), ("a b", "ab")])
def test_names_that_look_unlike_each_other_are_two_classes(pair, tmp_path):
    images = folder(labelled.folder(tmp_path, dict.fromkeys(pair, 1)))
    assert set(images.classes) == set(pair) and images.label_counts() == {0: 1, 1: 1}
