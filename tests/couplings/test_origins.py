"""Where pairs begin: noise, data, or both at random; and how shards are cut into what is solved at a time."""

import numpy as np
import pytest
import torch
from ends import IMAGES, SHAPE, back, encoded, field_and_model
from stores import fill
from tools import LinearField

from flowlit.commands.couple.predict import PairPredictor
from flowlit.couplings import SeededNoise, seeded_normal
from flowlit.couplings.origins import FromData, FromNoise, Random, make_origin, read_labels
from flowlit.couplings.parts import Parts
from flowlit.couplings.store.plan import plan
from flowlit.couplings.store.reader import StoredPairs
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.solvers import RK45, Euler

# parts


def test_parts_cover_every_row_once_and_never_mix_shards():
    parts = Parts(FromNoise(SeededNoise((1, 2, 2), 23)), plan([23], 10), 4)
    assert [part.index.tolist() for part in parts] == [
        *([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]),
        *([10, 11, 12, 13], [14, 15, 16, 17], [18, 19]),
        [20, 21, 22],
    ]
    assert [part.shard.number for part in parts] == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize("skip", [(), (0,), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "data", "random"])
def test_shards_begin_with_the_same_rows_whatever_is_skipped(kind, skip):
    origin = make_origin(kind, SeededNoise(SHAPE, 1, num_classes=10), 12, 1, IMAGES)
    shards = plan([12], 5)
    everything = list(Parts(origin, shards, 2))
    some = list(Parts(origin, [shard for shard in shards if shard.number not in skip], 2))
    for ours, theirs in zip(
        some, [part for part in everything if part.shard.number not in skip], strict=True
    ):
        assert ours.shard == theirs.shard and torch.equal(ours.index, theirs.index)
        for a, b in ((ours.x0, theirs.x0), (ours.x1, theirs.x1), (ours.cond["label"], theirs.cond["label"])):
            assert (a is None and b is None) or torch.equal(a, b)


# origins


def test_pairs_from_noise_begin_with_seeded_noise_and_its_labels():
    origin = make_origin("noise", SeededNoise(SHAPE, 1, seed=99, num_classes=4), 30, seed=5)
    index, x0, x1, cond = origin.rows(range(20, 30))
    assert (
        index.tolist() == list(range(20, 30))
        and x1 is None
        and cond["label"].tolist() == [i % 4 for i in range(20, 30)]
    )
    assert torch.equal(x0, torch.stack([seeded_normal(5, i, SHAPE) for i in range(20, 30)])), (
        "the seed is the store's"
    )


def test_pairs_from_data_begin_with_the_images_and_their_labels():
    index, x0, x1, cond = FromData(IMAGES, num_classes=10).rows(range(3, 9))
    assert index.tolist() == list(range(3, 9)) and x0 is None
    assert torch.equal(x1, encoded(range(3, 9)))
    assert cond["label"].tolist() == [int(IMAGES[i]["cond"]["label"]) for i in range(3, 9)]
    assert FromData(IMAGES).rows([0])[3] == {}, "an unconditional flow gets no labels"


def test_random_pairs_repeat_images_with_other_noise():
    index, x0, x1, _ = Random(IMAGES, seed=6).rows([2, 14, 26])
    assert index.tolist() == [2, 14, 26]
    assert torch.equal(x1[0], x1[1]) and torch.equal(x1, encoded([2, 2, 2]))
    assert torch.equal(x0, torch.stack([seeded_normal(6, i, SHAPE) for i in (2, 14, 26)]))


@pytest.mark.parametrize("kind", ["data", "random"])
def test_images_are_needed_to_start_from_them(kind):
    with pytest.raises(FlowlitError, match=f"--origin {kind} starts from images: --data.coupling"):
        make_origin(kind, SeededNoise(SHAPE, 1), 10, 0)
    with pytest.raises(FlowlitError, match=f"--origin {kind} takes the labels of its images; drop --labels"):
        make_origin(kind, SeededNoise(SHAPE, 1), 10, 0, IMAGES, "labels.txt")


def test_an_unknown_origin_is_refused():
    with pytest.raises(FlowlitError, match="origin is 'nosie'; expected noise, data or random"):
        make_origin("nosie", SeededNoise(SHAPE, 1), 10, 0)


# what is solved


def test_from_noise_the_solver_runs_forwards():
    field, model = field_and_model(Euler(3))
    part = next(iter(Parts(make_origin("noise", SeededNoise(SHAPE, 1), 5, 0), plan([5], 5), 5)))
    with torch.no_grad():
        solved = PairPredictor(model).predict_step(part, 0)
        assert torch.equal(solved.pair.x1, Euler(3)(field, part.x0).x1)
    assert solved.pair.x0 is part.x0 and solved.nfe.tolist() == [3] * 5 and solved.shard == part.shard


def test_from_data_the_solver_runs_in_reverse():
    field, model = field_and_model()
    part = next(iter(Parts(FromData(IMAGES), plan([12], 12), 12)))
    with torch.no_grad():
        solved = PairPredictor(model).predict_step(part, 0)
    assert torch.equal(solved.pair.x1, encoded(range(12)))
    assert torch.allclose(solved.pair.x0, back(field, solved.pair.x1), atol=1e-4)
    assert (solved.nfe > 0).all()


def test_random_pairs_ask_no_network():
    field, model = field_and_model()
    part = next(iter(Parts(Random(IMAGES, seed=6), plan([30], 30), 30)))
    solved = PairPredictor(model).predict_step(part, 0)
    assert field.called == 0 and solved.nfe.tolist() == [0] * 30
    assert solved.pair.x0 is part.x0 and solved.pair.x1 is part.x1


# stores


@pytest.mark.parametrize("kind", ["data", "random"])
def test_stores_that_begin_with_images(kind, tmp_path):
    origin = make_origin(kind, SeededNoise(SHAPE, 1, num_classes=10), 12, 6, IMAGES)
    pairs = StoredPairs([fill(tmp_path, origin=origin, num=12, solver=RK45(), shard_size=5)])
    pairs = pairs.__getitems__(range(12))
    assert torch.equal(pairs.x1, encoded(range(12)))
    assert pairs.cond["label"].tolist() == [int(IMAGES[i]["cond"]["label"]) for i in range(12)]
    if kind == "data":
        assert torch.allclose(pairs.x0, back(LinearField(), pairs.x1), atol=1e-4)
    else:
        assert torch.equal(pairs.x0, torch.stack([seeded_normal(6, i, SHAPE) for i in range(12)]))


def test_more_pairs_than_images_cannot_be_inverted(tmp_path):
    with pytest.raises(FlowlitError, match=r"--num is 13, but there are 12 images to start from; lower it"):
        fill(tmp_path, origin=FromData(IMAGES), num=13)
    assert not (tmp_path / "manifest.json").exists()


def test_random_pairs_may_be_more_than_the_images(tmp_path):
    pairs = StoredPairs([fill(tmp_path, origin=Random(IMAGES, seed=6), num=30, x0="seed")])
    assert torch.equal(pairs[26].x1, encoded([2])[0]) and torch.equal(
        pairs[26].x0, seeded_normal(6, 26, SHAPE)
    )


def test_other_images_are_another_store(tmp_path):
    fill(tmp_path, origin=Random(IMAGES), num=10)
    with pytest.raises(FlowlitError, match="images: sha256"):
        fill(tmp_path, origin=Random(Digits(limit=11)), num=10)


# labels


@pytest.mark.parametrize("name", ["labels.npy", "labels.txt"])
def test_labels_are_read_from_a_file(name, tmp_path):
    path, labels = tmp_path / name, [3, 0, 9, 9, 1]
    np.save(path, np.array(labels)) if name.endswith(".npy") else path.write_text(
        "\n".join(map(str, labels)) + "\n"
    )
    assert read_labels(str(path)) == labels
    origin = make_origin("noise", SeededNoise(SHAPE, 1, num_classes=10), 5, 0, labels=str(path))
    assert origin.rows([4, 0, 2])[3]["label"].tolist() == [1, 3, 9]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", None),
        ("labels.txt", "three\nfour"),
        ("labels.txt", "0.5\n1.5"),
        ("labels.txt", "0 1\n2 3"),
        ("labels.npy", None),
        ("labels.npy", b""),
        ("labels.npy", b"garbage"),
        ("labels.npy", np.zeros(3, np.float32)),
        ("labels.npy", np.zeros((3, 2), np.int64)),
        ("labels.npy", np.array([{"code": 1}], dtype=object)),
    ],
    ids=repr,
)
def test_labels_that_are_none(name, content, tmp_path):
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FlowlitError, match=f"labels {path}"):
        read_labels(str(path))
