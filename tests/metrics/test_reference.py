"""Reference statistics: how they are made, whose files are read, and what is refused."""

import json
import zipfile

import numpy as np
import pytest
import tiny
import torch
from tools import Mean, classifier_checkpoint

from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures, Inception
from flowlit.metrics.base import FeatureExtractor
from flowlit.metrics.protocol import check_dimension, check_reference, foreign_protocol
from flowlit.metrics.reference import cached_reference, make_reference, read_reference
from flowlit.types import ImageDataset

SHAPE = (1, 8, 8)


@pytest.fixture
def features(tmp_path):
    return ClassifierFeatures(classifier_checkpoint(tmp_path / "features.ckpt"), "tiny")


class Other(ImageDataset):
    """Any tensor as images."""

    fingerprint = "other"

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return {"x1": self.data[index], "cond": {}}


def statistics(path, dim=8, **more):
    """A file as another project writes it."""
    np.savez(path, mu=np.zeros(dim), sigma=np.eye(dim), **more)
    return path


class Legacy(Mean):
    """As Inception, as far as a reference looks."""

    name, resize = "inception", Inception.resize


def pixels(count):
    return torch.stack([Digits()[i]["x1"] for i in range(count)])


# making


def test_statistics_are_those_of_all_images_in_one_go(tmp_path, features):
    made = make_reference(Digits(limit=70), features, str(tmp_path / "a.npz"), batch_size=32)
    expected = features(pixels(70)).double().numpy()
    np.testing.assert_allclose(made.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(made.cov, np.cov(expected, rowvar=False), rtol=1e-5, atol=1e-9)
    assert made.mean.dtype == made.cov.dtype == torch.float64 and made.kept == 0


def test_the_same_file_comes_out_for_any_batch_size(tmp_path, features):
    hashes, kept = set(), []
    for size in (1, 7, 64, 256):
        made = make_reference(
            Digits(limit=64), features, str(tmp_path / f"{size}.npz"), True, batch_size=size
        )
        hashes.add(made.sha256())
        kept.append(made.features())
    assert all(torch.equal(kept[0], other) for other in kept[1:])
    assert len(hashes) == 1


def test_a_file_gives_back_what_was_written_with_its_protocol(tmp_path, features):
    made = make_reference(Digits(limit=40), features, str(tmp_path / "sub/a.npz"), keep_features=True)
    read = read_reference(tmp_path / "sub/a.npz")
    assert all(torch.equal(getattr(made, name), getattr(read, name)) for name in ("mean", "cov"))
    assert torch.equal(made.features(), read.features()) and made.kept == read.kept == 40
    assert (
        read.protocol == made.protocol
        and read.sha256() == made.sha256()
        and read.path == tmp_path / "sub/a.npz"
    )
    told = read.protocol
    assert told["features"] == {"name": "tiny", "sha256": features.fingerprint(), "dim": 8, "resize": "none"}
    assert (told["count"], told["shape"], told["range"]) == (40, [1, 8, 8], [0, 255])
    assert (
        told["images"] == Digits(limit=40).fingerprint
        and told["source"] == "Digits"
        and told["date"][:2] == "20"
    )
    check_reference(read, features, SHAPE)


def test_others_can_read_the_file(tmp_path, features):
    """As EDM's calculate_metrics.py does: mu and sigma, float64."""
    make_reference(Digits(limit=40), features, str(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as file:
        reference = dict(file)
    assert reference["mu"].shape == (8,) and reference["sigma"].shape == (8, 8)
    assert reference["mu"].dtype == reference["sigma"].dtype == np.float64 and sorted(reference) == [
        "mu",
        "protocol",
        "sigma",
    ]


def test_the_hash_tells_statistics_apart_and_not_files(tmp_path, features):
    one, same = (
        make_reference(Digits(limit=40), features, str(tmp_path / f"{n}.npz"), n == "a") for n in "ab"
    )
    other = make_reference(Digits(limit=41), features, str(tmp_path / "c.npz"))
    assert one.sha256() == same.sha256() != other.sha256()


@pytest.mark.parametrize(
    "data", [torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8, dtype=torch.int64)], ids=str
)
def test_images_that_are_not_uint8_are_refused(tmp_path, features, data):
    with pytest.raises(FlowlitError, match=r"images are torch\.\w+; expected uint8"):
        make_reference(Other(data), features, str(tmp_path / "a.npz"))
    assert not (tmp_path / "a.npz").exists()


def test_no_images_and_one_image_are_refused(tmp_path, features):
    with pytest.raises(FlowlitError, match="no images"):
        make_reference(Other(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)), features, str(tmp_path / "a.npz"))
    with pytest.raises(FlowlitError, match="at least 2 samples, found 1"):
        make_reference(Other(pixels(1)), features, str(tmp_path / "a.npz"))


def test_another_ending_is_refused_before_any_work(tmp_path):
    extractor = Mean()
    with pytest.raises(FlowlitError, match=r"must end in \.npz"):
        make_reference(Digits(limit=10), extractor, str(tmp_path / "statistics"))
    assert extractor.calls == 0


def test_a_reference_of_images_is_made_once_for_the_same_images_and_features(tmp_path):
    extractor, folder = Mean(), str(tmp_path)

    def images_looked_at(limit=50, keep=False, features=extractor):
        before = features.calls
        cached_reference(Digits(limit=limit), features, folder, keep, "cpu")
        return features.calls - before

    assert images_looked_at() > 0 and images_looked_at() == 0
    assert images_looked_at(limit=60) > 0, "other images"
    assert images_looked_at(features=Mean(2.0)) > 0, "other features"
    assert images_looked_at(keep=True) > 0 and images_looked_at(keep=True) == 0, (
        "their features were not kept"
    )


# --------------------------------------------------------------------------------------------------------
# other projects


def test_edms_file_is_read_and_told_by_its_name(tmp_path):
    read = read_reference(statistics(tmp_path / "cifar10-32x32.npz", 2048))
    assert read.protocol == {"features": {"name": "inception"}, "resolution": 32} and read.kept == 0
    check_reference(read, Legacy(), (3, 32, 32))
    check_dimension(read, 2048)
    with pytest.raises(FlowlitError, match="have 32 pixels a side, the run's 64"):
        check_reference(read, Legacy(), (3, 64, 64))


@pytest.mark.parametrize(
    ("name", "resolution", "resize"),
    [
        ("cifar10_clean_train_32.npz", 32, "clean"),
        ("cifar10_legacy_tensorflow_test_32.npz", 32, "legacy_tensorflow"),
        ("ffhq_legacy_pytorch_trainval_1024.npz", 1024, "legacy_pytorch"),
        ("ffhq_clean_trainval70k_256.npz", 256, "clean"),
        ("mine_clean_custom_na.npz", None, "clean"),
        ("imagenet-64x64.npz", 64, None),
        ("afhqv2-64x64.npz", 64, None),
        ("train2014.npz", None, None),
    ],
)
def test_names_of_other_projects_tell_resolution_and_resize(name, resolution, resize):
    told = foreign_protocol(name)
    assert (told.get("resolution"), told.get("resize")) == (resolution, resize)
    assert told["features"] == {"name": "inception"}


def test_clean_fids_file_is_read_where_its_resize_is_ours_only(tmp_path):
    legacy = read_reference(statistics(tmp_path / "cifar10_legacy_tensorflow_train_32.npz"))
    check_reference(legacy, Legacy(), (3, 32, 32))
    clean = read_reference(statistics(tmp_path / "cifar10_clean_train_32.npz"))
    with pytest.raises(
        FlowlitError, match=r"resized by 'clean', the run's by 'bilinear to 299×299.*legacy_tensorflow"
    ):
        check_reference(clean, Legacy(), (3, 32, 32))


def test_a_file_that_tells_nothing_is_inceptions(tmp_path, features):
    with pytest.raises(FlowlitError, match="its features are inception, the run's tiny"):
        check_reference(read_reference(statistics(tmp_path / "stats.npz")), features, SHAPE)


def test_single_precision_is_read_as_double(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.ones(3, np.float32), sigma=np.eye(3, dtype=np.float32))
    read = read_reference(tmp_path / "a.npz")
    assert read.mean.dtype == read.cov.dtype == torch.float64 and read.mean.tolist() == [1, 1, 1]


# ----------------------------------------------------------------------------------------------------------
# contradictions


def doctored(tmp_path, extractor, /, **changes):
    """A reference whose protocol tells something else."""
    made = make_reference(Digits(limit=20), extractor, str(tmp_path / "a.npz"))
    return made._replace(protocol={**made.protocol, **changes})


class Blurred(FeatureExtractor):
    """The same network, looking at images of another size."""

    name, resize = "tiny", "bilinear to 16×16"

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, images):
        return self.inner(images)

    def fingerprint(self):
        return self.inner.fingerprint()


def test_what_fits_is_not_refused(tmp_path, features):
    check_reference(doctored(tmp_path, features), features, SHAPE)
    check_reference(doctored(tmp_path, features), features, [1, 8, 8])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape": [3, 8, 8]}, r"its images are \(3, 8, 8\), the run's \(1, 8, 8\)"),
        ({"shape": [1, 16, 16]}, r"its images are \(1, 16, 16\), the run's \(1, 8, 8\)"),
        ({"range": [0, 1]}, r"its images range over \[0, 1\], the run's over \[0, 255\]"),
        ({"resize": "clean"}, "its images were resized by 'clean', the run's by 'none'"),
        ({"features": {"name": "inception"}}, "its features are inception, the run's tiny"),
        (
            {"features": {"name": "tiny", "sha256": "ab" * 32}},
            r"its tiny features have weights abababababab…, the run's \w{12}…",
        ),
    ],
    ids=["colours", "resolution", "range", "resize", "name", "weights"],
)
def test_every_contradiction_is_refused_and_named(tmp_path, features, changes, told):
    with pytest.raises(FlowlitError, match=told):
        check_reference(doctored(tmp_path, features, **changes), features, SHAPE)


def test_all_contradictions_are_named_at_once(tmp_path, features):
    with pytest.raises(FlowlitError) as caught:
        check_reference(doctored(tmp_path, features, range=[-1, 1], shape=[3, 8, 8]), features, SHAPE)
    assert "range over [-1, 1]" in str(caught.value) and "(3, 8, 8)" in str(caught.value)
    assert "a.npz" in str(caught.value) and "flowlit reference" in str(caught.value)


def test_another_resize_of_the_same_weights_is_refused(tmp_path, features):
    with pytest.raises(FlowlitError, match="resized by 'none', the run's by 'bilinear to 16×16'"):
        check_reference(doctored(tmp_path, features), Blurred(features), SHAPE)


def test_another_dimension_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match="of 64 features, but the run has 2048"):
        check_dimension(read_reference(statistics(tmp_path / "a.npz", 64)), 2048)


# broken files


class Bomb:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('/tmp/flowlit-bomb').touch(); raise SystemExit",))


def test_pickled_objects_are_refused_unread(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, mu=np.array([Bomb()], dtype=object), sigma=np.eye(1))
    with pytest.raises(FlowlitError, match=r"a\.npz holds no reference statistics.*allow_pickle"):
        read_reference(path)


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FlowlitError, match=r"nothing\.npz do not exist; make them: flowlit reference"):
        read_reference(tmp_path / "nothing.npz")


def test_files_that_hold_something_else_are_refused(tmp_path, features):
    whole = tmp_path / "whole.npz"
    make_reference(Digits(limit=20), features, str(whole))
    (tmp_path / "torn.npz").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "text.npz").write_text("mu and sigma")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "names.npz", mean=np.zeros(3), cov=np.eye(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as file:
        file.writestr("mu.npy", b"no array")
    statistics(tmp_path / "protocol.npz", protocol=np.array("{not json"))
    statistics(tmp_path / "list.npz", protocol=np.array("[1, 2]"))
    flipped = bytearray(whole.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.savez_compressed(
        tmp_path / "packed.npz", mu=np.random.default_rng(0).normal(size=40), sigma=np.eye(40)
    )
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[120:140] = b"\xff" * 20
    (tmp_path / "packed.npz").write_bytes(packed)
    broken = sorted(path for path in tmp_path.glob("*.npz") if path != whole)
    assert len(broken) == 10
    for path in broken:
        with pytest.raises(FlowlitError, match=f"{path.name} holds no reference statistics"):
            read_reference(path)


def test_statistics_of_the_wrong_shape_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(FlowlitError, match=r"mu has shape \(3,\) and sigma \(4, 4\)"):
        read_reference(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", mu=np.zeros((1, 3)), sigma=np.eye(3))
    with pytest.raises(FlowlitError, match=r"mu has shape \(1, 3\)"):
        read_reference(tmp_path / "b.npz")
    statistics(tmp_path / "c.npz", 3, features=np.zeros((10, 4), np.float32))
    with pytest.raises(FlowlitError, match=r"features.*\(10, 4\)"):
        read_reference(tmp_path / "c.npz")


def test_statistics_that_are_not_finite_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.array([0, np.nan]), sigma=np.eye(2))
    with pytest.raises(FlowlitError, match="not finite"):
        read_reference(tmp_path / "a.npz")


# the command


def configured(tmp_path, **changes):
    checkpoint = classifier_checkpoint(tmp_path / "last.ckpt")
    extractor = {
        "class_path": "flowlit.metrics.ClassifierFeatures",
        "init_args": {"checkpoint": checkpoint, "name": "tiny"},
    }
    images = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 30}}
    content = {"images": images, "features": extractor, "into": str(tmp_path / "made.npz"), **changes}
    return tiny.write(tmp_path / "reference.yaml", content)


def test_the_command_writes_what_the_function_makes(tmp_path, cli):
    done = cli("reference", "-c", configured(tmp_path), "--keep_features", "true")
    assert done.code == 0, done.err
    features = ClassifierFeatures(str(tmp_path / "last.ckpt"), "tiny")
    expected = make_reference(Digits(limit=30), features, str(tmp_path / "expected.npz"), keep_features=True)
    made = read_reference(tmp_path / "made.npz")
    assert made.sha256() == expected.sha256() and torch.equal(made.features(), expected.features())
    assert "30 images of 1×8×8 in 8 tiny features" in done.out and made.sha256() in done.out


def test_the_command_says_what_few_images_mean(tmp_path, cli):
    for limit, words in (
        (8, "8 real images for 8 features: their Fréchet distance is far too large"),
        (9, ""),
    ):
        images = {"class_path": "flowlit.data.Digits", "init_args": {"limit": limit}}
        into = str(tmp_path / f"{limit}.npz")
        done = cli("reference", "-c", configured(tmp_path, images=images, into=into))
        assert done.code == 0, done.err
        assert words in done.out and ("too large" in done.out) == bool(words)


def test_the_experiment_makes_the_reference_of_all_digits(tmp_path, cli):
    (tmp_path / "features/checkpoints").mkdir(parents=True)
    classifier_checkpoint(tmp_path / "features/checkpoints/last.ckpt")
    done = cli("reference", "-c", "experiments/reference_digits.yaml", "--vars.root", tmp_path)
    assert done.code == 0, done.err
    made = read_reference(tmp_path / "statistics/digits.npz")
    assert (
        made.protocol["count"] == 1797 == len(made.features())
        and made.protocol["features"]["name"] == "digits"
    )
    assert json.loads(json.dumps(made.protocol)) == made.protocol


def test_the_command_tells_in_one_line_what_is_missing(tmp_path, cli):
    path = configured(tmp_path)
    (tmp_path / "last.ckpt").unlink()
    assert "last.ckpt does not exist" in cli("reference", "-c", path).error
    assert not (tmp_path / "made.npz").exists()
    assert "must end in .npz" in cli("reference", "-c", configured(tmp_path, into="statistics")).error


def test_the_command_without_options_tells_what_it_needs(cli):
    done = cli("reference")
    assert done.code == 2 and "Traceback" not in done.err and "features" in done.err
