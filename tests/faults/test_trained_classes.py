"""Names of classes go from the images into checkpoints, stores and reports, and are compared everywhere."""

import json

import labelled
import pytest
import tiny
import torch
from tools import classifier_checkpoint, tiny_unet

import flowlit
from flowlit.callbacks import FID, Report
from flowlit.couplings import Cached, Independent, SeededNoise
from flowlit.couplings.store.exporting import export_zip
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.merge import merge
from flowlit.data import ImageFolder, ImageZip
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures
from flowlit.metrics.reference import make_reference
from flowlit.modules import Classifier, FlowDataModule, ReflowStudent, Teacher
from flowlit.networks import SmallClassifier, pretrained
from flowlit.solvers import Euler

NAMES = ("cat", "dog", "emu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return labelled.folder(tmp_path_factory.mktemp("photos"), dict.fromkeys(NAMES, 4))


def images(root, **arguments):
    return ImageFolder(str(root), **{"labels": True, "channels": 1, **arguments})


def teacher(kind=Teacher, network=None):
    return kind(network or tiny_unet(num_classes=3), solvers={"euler1": Euler(1)})


def data(coupling=None, num=6, labels=None, **arguments):
    return FlowDataModule(coupling, 4, SeededNoise(tiny.SHAPE, num, 5, 3, labels), 6, **arguments)


def fit(root, module, datamodule, ckpt_path=None, steps=1):
    trainer = tiny.trainer(root, steps, limit_val_batches=0)
    trainer.fit(module, datamodule, ckpt_path=ckpt_path)
    trainer.save_checkpoint(root / "last.ckpt")
    return root / "last.ckpt"


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return fit(tmp_path_factory.mktemp("run"), teacher(), data(Independent(images(photos))))


def facts(checkpoint):
    return torch.load(checkpoint, weights_only=True)["flowlit"]


def test_a_checkpoint_has_the_names_of_its_classes(trained):
    assert facts(trained)["class_names"] == list(NAMES)
    assert pretrained(str(trained), "raw").class_names == NAMES
    generator = flowlit.load(trained, "raw")
    assert generator.class_names == NAMES
    assert torch.equal(generator.sample(3, label="emu"), generator.sample(3, label=2))


def test_names_survive_conversion(trained, tmp_path):
    from commandline import in_process

    assert in_process("convert", trained, "--weights", "raw", "--into", tmp_path / "n.safetensors").code == 0
    assert flowlit.load(tmp_path / "n.safetensors", "raw").class_names == NAMES


def test_a_student_of_the_checkpoint_has_its_names_too(trained, tmp_path):
    network = pretrained(str(trained), "raw")
    store = couple(tmp_path / "pairs", teacher(network=network), num=9)
    assert read_manifest(store)["classes"] == list(NAMES)
    student = fit(tmp_path / "student", teacher(ReflowStudent), data(Cached(str(store))))
    assert facts(student)["class_names"] == list(NAMES)


def couple(store, module, coupling=None, **options):
    options = {"num": 6, "batch_size": 3, "shard_size": 3, "seed": 9, **options}
    tiny.trainer(store.parent).couple(module, data(coupling), store=str(store), **options)
    return store


def test_checkpoints_of_images_without_names_are_as_they_were(tmp_path):
    path = labelled.archive(tmp_path / "x.zip", [[f"{i}.png", i % 3] for i in range(6)])
    zipped = ImageZip(str(path), labels=True, channels=1)
    assert "class_names" not in facts(fit(tmp_path / "run", teacher(), data(Independent(zipped))))


def test_a_resumed_run_with_other_classes_is_refused(photos, trained, tmp_path):
    other = labelled.folder(tmp_path / "set", {"ant": 2, "cat": 2, "dog": 2})
    with pytest.raises(
        FlowlitError, match=r"\[ant, cat, dog\], the checkpoint \[cat, dog, emu\]: class 0 is 'ant'"
    ):
        fit(tmp_path / "run", teacher(), data(Independent(images(other))), trained, 2)
    swapped = images(photos, classes=["dog", "cat", "emu"])
    with pytest.raises(FlowlitError, match="class 0 is 'dog' here and 'cat' there"):
        fit(tmp_path / "run", teacher(), data(Independent(swapped)), trained, 2)
    assert fit(tmp_path / "again", teacher(), data(Independent(images(photos))), trained, 2).exists()


def test_a_checkpoint_without_names_warns_of_numbers_that_were_others_before(tmp_path):
    root = labelled.folder(tmp_path / "set", dict.fromkeys(map(str, range(12)), 1))
    coupling = Independent(images(root))
    module = Teacher(tiny_unet(num_classes=12), solvers={"euler1": Euler(1)})
    path = fit(tmp_path / "run", module, FlowDataModule(coupling, 4))
    content = torch.load(path, weights_only=True)
    assert content["flowlit"].pop("class_names") == [str(i) for i in range(12)]
    torch.save(content, path)
    module = Teacher(tiny_unet(num_classes=12), solvers={"euler1": Euler(1)})
    with pytest.warns(UserWarning, match=r"numbered them by alphabet, \[0, 1, 10, 11, 2"):
        fit(tmp_path / "again", module, FlowDataModule(coupling, 4), path, 2)


def classify(root, train, validation, ckpt_path=None):
    module = Classifier(SmallClassifier(1, 3, 8))
    datamodule = FlowDataModule(Independent(train), 4, validation=validation)
    trainer = tiny.trainer(root, 1, limit_val_batches=1)
    trainer.fit(module, datamodule, ckpt_path=ckpt_path)
    trainer.save_checkpoint(root / "last.ckpt")
    return root / "last.ckpt"


def test_a_validation_set_without_one_class_is_refused(photos, tmp_path):
    part = labelled.folder(tmp_path / "val", {"dog": 2, "emu": 2})
    with pytest.raises(
        FlowlitError, match=r"data.validation has the classes \[dog, emu\], .* \[cat, dog, emu\]"
    ):
        classify(tmp_path / "run", images(photos), images(part))
    path = classify(tmp_path / "run", images(photos), images(part, classes=str(photos)))
    assert facts(path)["class_names"] == list(NAMES)
    trainer = tiny.trainer(tmp_path)
    module = Classifier(SmallClassifier(1, 3, 8))
    for validation in (images(part), images(photos, classes=["emu", "dog", "cat"])):
        with pytest.raises(FlowlitError, match=r"data.validation has the classes"):
            trainer.validate(module, FlowDataModule(validation=validation), str(path))
    trainer.validate(module, FlowDataModule(validation=images(photos)), str(path))


def test_classes_that_no_image_has_are_refused_by_fit(tmp_path):
    path = labelled.archive(tmp_path / "x.zip", [[f"{i}.png", 1 + i % 2] for i in range(8)])
    zipped = Independent(ImageZip(str(path), labels=True, channels=1))
    with pytest.raises(FlowlitError, match=r"class 0 of 3 does not occur in images of ImageZip, but would"):
        fit(tmp_path / "run", teacher(), data(zipped))
    empty = labelled.folder(tmp_path / "set", {"cat": 2, "dog": 0, "emu": 2})
    with pytest.raises(FlowlitError, match=r"class 1 \(dog\) of 3 does not occur"):
        fit(tmp_path / "run", teacher(), data(Independent(images(empty))))
    assert fit(tmp_path / "some", teacher(), data(Independent(images(empty)), labels=2)).exists()


def test_labels_beyond_the_network_are_refused_by_fit(photos, tmp_path):
    coupling = Independent(images(photos, classes=["ant", *NAMES]))
    with pytest.raises(FlowlitError, match="run from 1 to 3, but the network knows 3 classes"):
        fit(tmp_path / "run", teacher(), data(coupling))


def test_classes_that_no_pair_has_are_refused_by_fit(trained, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join("012012111111"))
    module = teacher(network=pretrained(str(trained), "raw"))
    store = couple(tmp_path / "pairs", module, num=12, labels=str(tmp_path / "labels.txt"))
    whole = Cached(str(store))
    assert whole.dataset().label_counts() == {0: 2, 1: 8, 2: 2}
    assert Cached(str(store), limit=4, resident=True).dataset().label_counts() == {0: 2, 1: 1, 2: 1}
    fit(tmp_path / "whole", teacher(), data(whole))
    (tmp_path / "labels.txt").write_text("\n".join("111111222222"))
    store = couple(tmp_path / "others", module, num=12, labels=str(tmp_path / "labels.txt"))
    with pytest.raises(FlowlitError, match=r"class 0 \(cat\) of 3 does not occur in couplings in"):
        fit(tmp_path / "run", teacher(), data(Cached(str(store))))


def test_pairs_made_from_images_have_the_names_of_their_classes(photos, trained, tmp_path):
    coupling = Independent(images(photos))
    store = couple(tmp_path / "pairs", teacher(), coupling, origin="random")
    assert read_manifest(store)["classes"] == list(NAMES)
    before = (store / "manifest.json").read_bytes()
    couple(store, teacher(), coupling, origin="random")
    assert (store / "manifest.json").read_bytes() == before
    swapped = Independent(images(photos, classes=["dog", "cat", "emu"]))
    with pytest.raises(FlowlitError, match="already holds other pairs"):
        couple(store, teacher(), swapped, origin="random", num=8)
    named = teacher(network=pretrained(str(trained), "raw"))
    with pytest.raises(
        FlowlitError, match=r"data.coupling.images has the classes \[dog, cat, emu\], the network"
    ):
        couple(tmp_path / "other", named, swapped, origin="data")


def test_a_store_of_before_grows_without_names(photos, tmp_path):
    coupling = Independent(images(photos))
    store = couple(tmp_path / "pairs", teacher(), coupling, origin="random", num=3)
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["classes"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    couple(store, teacher(), coupling, origin="random", num=6)
    assert read_manifest(store)["classes"] == list(NAMES)


def test_stores_and_zips_pass_names_on(photos, tmp_path):
    coupling = Independent(images(photos))
    one = couple(tmp_path / "one", teacher(), coupling, origin="random")
    two = couple(tmp_path / "two", teacher(), coupling, origin="random", seed=10)
    assert merge([one, two], tmp_path / "both")["classes"] == list(NAMES)
    export_zip(one, tmp_path / "one.zip")
    assert ImageZip(str(tmp_path / "one.zip"), labels=True, channels=1).classes == NAMES
    manifest = json.loads((two / "manifest.json").read_text())
    manifest["classes"] = ["dog", "cat", "emu"]
    (two / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FlowlitError, match=r"classes: .* in the first, .* in this one"):
        Cached([str(one), str(two)]).dataset()


def test_a_report_has_the_names_of_the_classes(trained, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    trainer = tiny.trainer(tmp_path, 1, [Report()], logger=logger, limit_val_batches=1)
    trainer.validate(teacher(), data(), str(trained))
    assert json.loads((tmp_path / "metrics.json").read_text())["classes"] == list(NAMES)


def test_a_reference_of_other_classes_is_refused(photos, trained, tmp_path):
    extractor = ClassifierFeatures(classifier_checkpoint(tmp_path / "c.ckpt"), "digits")
    others = labelled.folder(tmp_path / "others", {"ant": 3, "bee": 3, "cat": 3})
    for root in (others, photos):
        path = make_reference(images(root), extractor, str(tmp_path / "r.npz")).path
        trainer = tiny.trainer(tmp_path, 1, [FID(extractor, str(path))], limit_val_batches=1.0)
        if root is photos:
            trainer.validate(teacher(), data(), str(trained))
            continue
        with pytest.raises(
            FlowlitError, match=r"reference .*r.npz has the classes \[ant, bee, cat\], the network"
        ):
            trainer.validate(teacher(), data(), str(trained))


@pytest.mark.parametrize("origin", ["data", "random"])
def test_images_of_more_classes_than_are_asked_for_make_no_pairs(origin, tmp_path):
    path = labelled.archive(tmp_path / "x.zip", [[f"{i}.png", i] for i in range(6)])
    coupling = Independent(ImageZip(str(path), labels=True, channels=1))
    with pytest.raises(
        FlowlitError, match="labels of the images run from 0 to 5, but the network knows 3 classes"
    ):
        couple(tmp_path / "pairs", teacher(), coupling, origin=origin)
