"""Some classes of images, of pairs and of noise: those of one student of several."""

import labelled
import numpy as np
import pytest
import stores
import tiny
import torch
from tools import tiny_unet
from torch.utils.data import default_collate

from flowlit.couplings import Cached, Independent, Mixed, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import Digits, ImageFolder, OfClasses
from flowlit.data.provenance import are_other, described
from flowlit.errors import FlowlitError
from flowlit.metrics.reference import make_reference
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler
from flowlit.types import ImageDataset


class Plain(ImageDataset):
    """A set of one's own, which says no more than it must."""

    fingerprint = "plain"

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        cond = {} if self.labels[index] is None else {"label": torch.tensor(self.labels[index])}
        return {"x1": torch.full((1, 2, 2), index, dtype=torch.uint8), "cond": cond}


def test_images_of_some_classes_are_those_in_their_order():
    whole = Digits(limit=60)
    part = OfClasses(whole, [7, 1])
    expected = [i for i in range(60) if int(whole[i]["cond"]["label"]) in (1, 7)]
    assert len(part) == len(expected)
    for place, index in enumerate(expected):
        assert torch.equal(part[place]["x1"], whole[index]["x1"])
        assert part[place]["cond"] == whole[index]["cond"]
    assert part.classes == whole.classes and set(part.label_counts()) == {1, 7}
    assert sum(part.label_counts().values()) == len(part)
    assert part.class_numbers().tolist() == [int(whole[i]["cond"]["label"]) for i in expected]


def test_files_and_sets_of_ones_own_serve_as_well(tmp_path):
    folder = labelled.folder(tmp_path / "photos", {"cat": 3, "dog": 2, "emu": 4})
    part = OfClasses(ImageFolder(str(folder), labels=True, channels=1), [0, 2])
    assert part.label_counts() == {0: 3, 2: 4} and part.classes == ("cat", "dog", "emu")
    own = OfClasses(Plain([2, 0, 2, 1]), [2])
    assert [int(own[i]["x1"][0, 0, 0]) for i in range(len(own))] == [0, 2]


@pytest.mark.parametrize("images", [Digits(labels=False, limit=20), Plain([None, None])])
def test_images_without_labels_are_refused(images):
    with pytest.raises(FlowlitError, match=f"OfClasses: {type(images).__name__} has no labels; set"):
        len(OfClasses(images, [0]))


@pytest.mark.parametrize("only", [[3], [0, 3], []])
def test_classes_that_do_not_occur_are_refused(only):
    with pytest.raises(FlowlitError, match=r"only is .*; expected some of its classes, and it has .* \[0, 1"):
        len(OfClasses(Plain([0, 1, 2]), only))


def test_a_part_is_known_as_one_of_its_whole():
    whole = Digits("train", limit=100)
    one, other = OfClasses(whole, [0, 1]), OfClasses(whole, [2])
    assert len({whole.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert OfClasses(whole, [1, 0]).fingerprint == one.fingerprint
    facts = described(one)
    assert (facts["name"], facts["part"], facts["images"]) == ("Digits", "train, classes 0, 1", len(one))
    assert not are_other(facts, described(whole)) and not are_other(facts, described(other))
    assert are_other(facts, described(Plain([0])))


def test_it_serves_as_reference(tmp_path):
    from tools import Mean

    part = OfClasses(Digits(limit=60), [3])
    reference = make_reference(part, Mean(), str(tmp_path / "r.npz"))
    images = torch.stack([part[i]["x1"] for i in range(len(part))])
    assert torch.allclose(reference.mean, Mean()(images).double().mean(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stores.fill(tmp_path_factory.mktemp("pairs"))


def labels_of(rows):
    return [int(rows[i].cond["label"]) for i in range(len(rows))]


@pytest.mark.parametrize("limit", [None, 33])
def test_pairs_of_some_classes_are_those_in_their_order(folder, limit):
    whole, part = StoredPairs([folder], limit), StoredPairs([folder], limit, only=[3, 1])
    expected = [i for i, label in enumerate(labels_of(whole)) if label in (1, 3)]
    assert len(part) == len(expected) > 10
    ours = part.__getitems__(range(len(part)))
    theirs = whole.__getitems__(expected)
    assert torch.equal(ours.x0, theirs.x0) and torch.equal(ours.x1, theirs.x1)
    assert part.label_counts() == {label: labels_of(whole).count(label) for label in (1, 3)}
    with pytest.raises(IndexError):
        part.__getitems__([len(part)])
    part.check()


def test_given_labels_and_several_stores(tmp_path):
    folders = []
    for seed in (1, 2):
        labels = [i // 5 % 4 for i in range(50)]
        origin = FromNoise(SeededNoise((1, 4, 4), 50, seed, 4, labels))
        folders.append(stores.fill(tmp_path / str(seed), origin=origin))
    part = StoredPairs(folders, only=[2])
    assert labels_of(part) == [2] * len(part) and len(part) == part.label_counts()[2] == 20


def test_a_coupling_of_some_classes(folder):
    for resident in (False, True):
        coupling = Cached(folder, only=[2], resident=resident)
        rows = coupling.dataset()
        batch = rows.__getitems__([0, 3]) if not resident else default_collate([rows[0], rows[3]])
        pair = coupling.complete(batch, torch.device("cpu"))
        expected = StoredPairs([folder], only=[2]).__getitems__([0, 3])
        assert torch.equal(pair.x1, expected.x1) and pair.cond["label"].tolist() == [2, 2]
    mixed = Mixed([Cached(folder, only=[2]), Cached(folder, only=[0, 1])], [0.5, 0.5]).dataset()
    assert set(mixed.label_counts()) == {0, 1, 2}


def test_pairs_without_labels_are_refused(tmp_path):
    plain = stores.fill(tmp_path / "plain", origin=FromNoise(SeededNoise((1, 4, 4), 50, seed=3)))
    with pytest.raises(FlowlitError, match=r"plain: only is \[0\]; expected some .* it has no labels"):
        Cached(plain, only=[0]).dataset()


def noise(num, **arguments):
    return SeededNoise((1, 2, 2), num, 4, 10, **arguments)


def test_noise_of_some_classes_is_balanced_among_them():
    part = noise(7, only=[8, 2, 5])
    assert labels_of(part) == [8, 2, 5, 8, 2, 5, 8]
    assert part.label_counts() == {8: 3, 2: 2, 5: 2}
    assert noise(2, only=[8, 2, 5]).label_counts() == {8: 1, 2: 1}
    assert torch.equal(part.batch([3]).x0, noise(7).batch([3]).x0), "labels do not change the noise"
    assert labels_of(part.first(9))[-2:] == [2, 5] and labels_of(part.reseeded(1)) == labels_of(part)
    assert labels_of(part.relabelled(None)) == list(range(7))
    assert part.identity()["labels"] == "balanced by index among [8, 2, 5]"


def test_stores_of_some_classes_are_sound(tmp_path):
    """And equal to those of the same labels, given one by one."""
    kinds = {"only": {"only": [3, 1]}, "given": {"labels": [3, 1] * 25}}
    for name, options in kinds.items():
        stores.fill(tmp_path / name, origin=FromNoise(SeededNoise((1, 4, 4), 50, 3, 4, **options)))
    ours, theirs = (read_manifest(tmp_path / name)["labels"] for name in kinds)
    assert ours == theirs and ours["law"] == "given"
    rows = StoredPairs([tmp_path / "only"])
    rows.check()
    assert np.array_equal(labels_of(rows), [3, 1] * 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": [10]}, r"only is \[10\]; expected different classes from 0 to 9"),
        ({"only": [1, 1]}, "expected different classes"),
        ({"only": []}, "expected different classes"),
        ({"only": [-1]}, "SeededNoise: only is"),
        ({"only": [1], "labels": 1}, "labels and only are both given; leave one of them out"),
    ],
    ids=str,
)
def test_classes_of_noise_that_make_no_sense_are_refused(options, message):
    with pytest.raises(FlowlitError, match=message):
        noise(4, **options)
    with pytest.raises(FlowlitError, match=r"\(set num_classes\)"):
        SeededNoise((1, 2, 2), 4, only=[0])


def fit(tmp_path, images, **options):
    module = FlowModule(tiny_unet(num_classes=10), RectifiedFlow(), solvers={"euler1": Euler(1)})
    data = FlowDataModule(Independent(images), 8, SeededNoise(tiny.SHAPE, 6, 5, 10, **options))
    tiny.trainer(tmp_path, 2).fit(module, datamodule=data)


def test_a_student_trains_on_its_classes_and_generates_them(tmp_path):
    images = OfClasses(Digits(), [1, 4])
    fit(tmp_path, images, only=[4, 1])
    with pytest.raises(FlowlitError, match=r"classes 0 \(0\), 2 \(2\), .* do not occur .*data.noise.only"):
        fit(tmp_path, images)
