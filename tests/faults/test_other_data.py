"""Numbers against other data, and pictures learned by heart: faults in the hands of others."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from commandline import in_process
from PIL import Image
from tools import classifier_checkpoint, tiny_unet

import flowlit
from flowlit._support.places import without_folders
from flowlit.callbacks import LastCheckpoint
from flowlit.commands.share.configuration import configuration, encoded
from flowlit.couplings import (
    Cached,
    Independent,
    Mixed,
    OptimalTransport,
    PromptedImages,
    SeededNoise,
    Simulated,
)
from flowlit.couplings.store.manifest import describe, read_manifest
from flowlit.couplings.store.merge import merge
from flowlit.data import Digits, ImageFolder, Pixels, Prompts, RandomCLIPText
from flowlit.data.provenance import are_other, described, in_words, shared, trained_on
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.export.facts import facts_of
from flowlit.generators.export.fold import folded
from flowlit.metrics.base import Reference
from flowlit.metrics.protocol import other_images
from flowlit.modules import Critic, CriticModule, FlowDataModule, ReflowStudent, Teacher
from flowlit.modules.provenance import images_trained_on, take_data, warn_of_memorising
from flowlit.networks import pretrained
from flowlit.networks.checkpoints.fingerprint import fingerprint, identity
from flowlit.networks.wrappers.base import VelocityWrapper
from flowlit.objectives import CombinedGame
from flowlit.objectives.score_distillation import DMD, SiD
from flowlit.solvers import Euler

DIGITS = {"name": "Digits", "part": "all", "images": 40, "fingerprint": Digits(limit=40).fingerprint}
OF_PAIRS = {**DIGITS, "fresh_noise": False}


def data(coupling=None, num=4):
    return FlowDataModule(coupling, 8, SeededNoise(tiny.SHAPE, num))


def fit(folder, module, coupling, steps=1, **options):
    trainer = tiny.trainer(folder, steps, limit_val_batches=0, **options)
    trainer.fit(module, data(coupling))
    file = folder / "last.ckpt"
    trainer.save_checkpoint(file)
    return file


def couple(store, module, coupling=None, **options):
    size = {"num": 12, "shard_size": 6, "x0": "float32", "x1": "float32"}
    tiny.trainer(store.parent).couple(module, data(coupling), store=str(store), **{**size, **options})
    return store


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Teacher, its pairs, and a student of them: each in another file."""
    root = tmp_path_factory.mktemp("chain")
    digits = Independent(Digits(limit=40, labels=False))
    teacher = fit(root, Teacher(tiny_unet()), digits).rename(root / "teacher.ckpt")
    store = couple(root / "pairs", Teacher(pretrained(str(teacher), "raw")))
    student = fit(root, ReflowStudent(tiny_unet()), Cached(str(store))).rename(root / "student.ckpt")
    return teacher, store, student


def test_the_images_of_a_teacher_travel_to_its_pairs_and_to_its_student(chain):
    teacher, store, student = chain
    assert read_manifest(store)["data"] == DIGITS
    assert f"name Digits, part all, images 40, fingerprint {DIGITS['fingerprint']}" in describe(
        store, read_manifest(store)
    )
    for file, facts in ((teacher, DIGITS), (student, OF_PAIRS)):
        assert torch.load(file, weights_only=True)["flowlit"]["data"] == facts
        assert trained_on(pretrained(str(file), "raw")) == facts
    assert trained_on(VelocityWrapper(pretrained(str(student), "raw"))) == OF_PAIRS, "of the network inside"


def test_they_travel_through_converted_merged_and_loaded_files(chain, tmp_path):
    teacher, store, student = chain
    converted = tmp_path / "x.safetensors"
    assert in_process("convert", student, "--into", converted, "--weights", "raw").code == 0
    assert trained_on(pretrained(str(converted), "raw")) == OF_PAIRS
    more = couple(tmp_path / "more", Teacher(pretrained(str(teacher), "raw")), seed=9)
    assert merge([store, more], tmp_path / "both")["data"] == DIGITS
    module = Teacher(tiny_unet())
    tiny.trainer(tmp_path, limit_val_batches=1).validate(module, data(), str(student))
    assert trained_on(module.network) == OF_PAIRS


def test_every_coupling_names_the_images_behind_it(chain):
    teacher, store, _ = chain
    network = pretrained(str(teacher), "raw")
    for coupling in (
        Cached(str(store)),
        Cached(str(store), resident=True),
        Mixed([Cached(str(store)), Cached(str(store))], [0.5, 0.5]),
        Simulated(network, Euler(1), SeededNoise(tiny.SHAPE, 8)),
        Independent(Digits(limit=40)),
    ):
        module = data(coupling)
        module.pairs = coupling.dataset()
        assert images_trained_on(module) == DIGITS, coupling
    assert images_trained_on(data()) is None


class Shelves(Digits):
    """Images of another package, whose attributes have other types."""

    fingerprint = 17
    paths = Path("a/b")


def test_a_checkpoint_of_own_images_can_be_read(tmp_path):
    shelves = Shelves(limit=8, labels=False)
    len(shelves)  # opens it
    shelves.part = 3
    file = fit(tmp_path, Teacher(tiny_unet()), Independent(shelves))
    facts = {"name": "Shelves a/b", "images": 8, "fingerprint": "17"}
    assert trained_on(pretrained(str(file), "raw")) == facts


def test_pairs_of_images_name_these_and_not_the_training_data(chain, tmp_path):
    network = pretrained(str(chain[0]), "raw")
    images = Independent(Digits("test", limit=12, labels=False))
    store = couple(tmp_path / "random", Teacher(network), images, origin="random")
    assert read_manifest(store)["data"] == described(Digits("test", limit=12))


def test_older_files_say_nothing_and_nothing_is_warned_of(tmp_path):
    store = couple(tmp_path / "pairs", Teacher(tiny.Affine()))
    assert "data" not in read_manifest(store)
    student = fit(tmp_path, ReflowStudent(tiny.Affine()), Cached(str(store)))
    assert "data" not in torch.load(student, weights_only=True)["flowlit"]
    assert other_images(reference(images="abc", source="Digits", count=9), None) == ""
    assert other_images(reference(features={"name": "inception"}), DIGITS) == ""


def reference(**protocol):
    return Reference(torch.zeros(1), torch.eye(1), 0, protocol, "real.npz")


def test_a_reference_of_other_data_is_named_beside_the_training_data():
    photos = {"name": "ImageFolder photos", "images": 90, "fingerprint": "0123456789abcdef"}
    warning = other_images(reference(data=photos), DIGITS)
    assert "real.npz is of ImageFolder photos (90 images, fingerprint 01234567)" in warning
    assert f"trained on {in_words(DIGITS)}" in warning and "\n" not in warning
    older = other_images(reference(images="feed", source="ImageZip", count=9), DIGITS)
    assert "ImageZip (9 images, fingerprint feed)" in older
    assert other_images(reference(data=DIGITS), DIGITS) == ""


@pytest.mark.parametrize("name", ["Digits", "ImageFolder my photos", "ImageZip a.zip b.zip"])
@pytest.mark.parametrize("part", [{}, {"part": "train"}])
def test_a_reference_of_before_may_be_of_another_part_of_the_training_data(name, part):
    facts = {"name": name, **part, "images": 90, "fingerprint": "0123456789abcdef"}
    older = {"images": "feed", "count": 9}
    assert other_images(reference(source=name.split()[0], **older), facts) == ""
    assert "CIFAR10 (9 images" in other_images(reference(source="CIFAR10", **older), facts)


@pytest.mark.parametrize(
    ("a", "b", "other"),
    [
        ({"fingerprint": "1"}, {"fingerprint": "1", "name": "moved"}, False),
        ({"fingerprint": "1", "name": "a"}, {"fingerprint": "2", "name": "a"}, True),
        ({"fingerprint": "1", "name": "a", "part": "train"}, {"fingerprint": "2", "name": "a"}, True),
        (
            {"fingerprint": "1", "name": "a", "part": "train"},
            {"fingerprint": "2", "name": "a", "part": "test"},
            False,
        ),
        (
            {"fingerprint": "1", "name": "a", "part": "train", "whole": "w"},
            {"fingerprint": "2", "name": "copy of a", "part": "all", "whole": "w"},
            False,
        ),
        (
            {"fingerprint": "1", "name": "a", "part": "train", "whole": "w"},
            {"fingerprint": "2", "name": "b", "part": "all", "whole": "v"},
            True,
        ),
        ({"fingerprint": "1", "name": "a", "whole": "w"}, {"fingerprint": "2", "name": "a"}, False),  # older
        ({"fingerprint": "1", "name": "a", "whole": "w"}, {"fingerprint": "2", "name": "b"}, True),
        ({"fingerprint": "1", "name": "a"}, None, False),
        (None, None, False),
        (  # one from a file to share
            {"fingerprint": "1", "name": "ImageZip /home/me/cats.zip", "part": "train"},
            {"fingerprint": "2", "name": "ImageZip cats.zip", "part": "held_out"},
            False,
        ),
        (
            {"fingerprint": "1", "name": "ImageZip /home/me/a/train.zip", "part": "train"},
            {"fingerprint": "2", "name": "ImageZip /home/me/b/train.zip", "part": "held_out"},
            True,
        ),
    ],
)
def test_other_data_are_told_from_parts_of_one_set(a, b, other):
    assert are_other(a, b) == are_other(b, a) == other
    assert shared([a, b]) == (a if a == b else None)


def test_a_validation_against_other_data_warns_and_its_report_names_the_training_data(chain, tmp_path):
    content = tiny.fit(tmp_path / "run", data={"noise": tiny.noise(16)}, limit_val_batches=1.0)
    content["model"]["init_args"]["network"] = {
        "class_path": "flowlit.networks.pretrained",
        "init_args": {"checkpoint": str(chain[2]), "weights": "raw"},
    }
    features = {"checkpoint": classifier_checkpoint(tmp_path / "classifier.ckpt"), "name": "tiny"}
    fid = {
        "features": {"class_path": "flowlit.metrics.ClassifierFeatures", "init_args": features},
        "cache": str(tmp_path / "cache"),
    }
    for limit, warned in ((40, False), (60, True)):
        fid["reference"] = {"class_path": "flowlit.data.Digits", "init_args": {"limit": limit}}
        callbacks = [
            {"class_path": "flowlit.callbacks.FID", "init_args": fid},
            {"class_path": "flowlit.callbacks.Report"},
        ]
        content["trainer"]["callbacks"] = callbacks
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            outcome = in_process("validate", "-c", tiny.write(tmp_path / "v.yaml", content))
        assert outcome.code == 0, outcome.err
        assert any("the distance is that to other data" in str(each.message) for each in caught) == warned
        assert json.loads((tmp_path / "run/metrics.json").read_text())["data"] == OF_PAIRS


def test_going_on_with_other_images_is_warned_of(chain, tmp_path):
    module = Teacher(tiny_unet())
    trainer = tiny.trainer(tmp_path, 2, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"trained on Digits \(all, 40 images.*goes on with Digits"):
        trainer.fit(module, data(Independent(Digits(limit=48, labels=False))), ckpt_path=str(chain[0]))


def test_a_folder_is_called_by_its_place(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "cats/a.png")
    facts = described(ImageFolder(str(tmp_path / "cats")))
    assert facts["name"] == f"ImageFolder {tmp_path / 'cats'}" and facts["images"] == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Digits", "Digits"),
        ("ImageFolder /home/me/cats", "ImageFolder cats"),
        ("ImageFolder /home/my name/my cats/", "ImageFolder my cats"),
        ("ImageZip /a b/c.zip /d/e-*.zip", "ImageZip c.zip e-*.zip"),
        ("ImageZip ~/x/a.zip data/b.zip", "ImageZip b.zip"),
        ("ImageZip ../x/a.zip b/c.zip d.zip", "ImageZip a.zip c.zip d.zip"),
        ("ImageFolder data/cats/", "ImageFolder cats/"),
        ("images of another project", "images of another project"),
    ],
)
def test_a_name_to_share_has_no_folders(name, expected):
    assert without_folders(name) == expected == without_folders(expected)


def test_files_that_others_get_do_not_show_where_images_lie(tmp_path):
    place = tmp_path / "my private folder"
    place.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "a.png")
    network = tiny_unet()
    network.trained_on = described(ImageFolder(str(place)))
    root = tmp_path / "evaluate"
    root.mkdir()
    reference = {"file": str(place / "real.npz"), "count": 1, "data": network.trained_on}
    facts = {"format": "flowlit-metrics", "version": 2, "metrics": {"nfe/euler1": 1.0}, "command": "validate"}
    facts |= {"sha256": fingerprint(network), "features": {"tiny": {"images": 4, "reference": reference}}}
    (root / "metrics.json").write_text(json.dumps(facts))
    generator = Generator(network, Euler(1), Pixels())
    (tmp_path / "student").mkdir()
    generator.save(file := tmp_path / "student/run.safetensors")
    assert trained_on(pretrained(str(file)))["name"] == "ImageFolder my private folder"
    assert not are_other(network.trained_on, trained_on(pretrained(str(file))))
    loaded = flowlit.load(file)
    said = facts_of(loaded, folded(loaded), None)
    texts = [file.read_bytes(), json.dumps(said).encode(), encoded(configuration(generator))]
    assert said["metrics"] and all(b"my private folder" in text for text in texts)
    assert not any(str(tmp_path).encode() in text for text in texts)


@pytest.mark.parametrize(
    ("limit", "steps", "epochs", "warned"),
    [
        (16, 700, None, "350 passes over 16 images"),
        (16, -1, 301, "301 passes over 16 images"),
        (16, 600, None, ""),
        (1000, 30_000, None, ""),
        (16, -1, -1, ""),
        (16, -1, None, ""),
    ],
)
def test_many_passes_over_few_images_are_warned_of(limit, steps, epochs, warned, recwarn):
    images = data(Independent(Digits(limit=limit, labels=False)))
    warn_of_memorising(SimpleNamespace(max_steps=steps, max_epochs=epochs, datamodule=images))
    texts = [str(each.message) for each in recwarn]
    assert bool(texts) == bool(warned)
    assert all(warned in text and "NearestNeighbours" in text for text in texts)


def test_a_fit_warns_of_it_before_the_first_step(tmp_path):
    module = Teacher(tiny.Affine())
    trainer = tiny.trainer(tmp_path, 2, limit_val_batches=0, max_time="00:00:00:01")
    trainer.fit_loop.epoch_loop.max_steps = 10**6
    with pytest.warns(UserWarning, match="passes over 16 images"):
        trainer.fit(module, data(Independent(Digits(limit=16, labels=False))))


def test_what_travels_with_a_network_is_no_part_of_its_identity():
    """Features of generated images are kept by it."""
    network = tiny.Affine()
    before = identity(network)
    network.trained_on = DIGITS
    assert identity(network) == before


def test_a_guide_of_pairs_is_refused(chain, tmp_path):
    """Score distillation needs the velocity of fresh noise: a teacher has it, its students do not."""
    teacher, _, student = chain
    critic = Critic(tiny_unet(), updates=1)
    CriticModule(tiny_unet(), DMD(pretrained(str(teacher), "raw")), critic)
    for game in (DMD, lambda guide: CombinedGame({"kl": SiD(guide)})):
        with pytest.raises(FlowlitError, match=r"its guide .*student.ckpt was trained on pairs .*Indep"):
            CriticModule(tiny_unet(), game(pretrained(str(student), "raw")), critic)


def test_a_generator_of_score_distillation_is_no_guide(chain, tmp_path):
    teacher, _, _ = chain
    game = DMD(pretrained(str(teacher), "raw"))
    module = CriticModule(tiny_unet(), game, Critic(tiny_unet(), updates=1))
    saving = {"callbacks": [LastCheckpoint(1)], "enable_checkpointing": True}
    trainer = tiny.trainer(tmp_path, 1, limit_val_batches=0, **saving)
    trainer.fit(module, data(Independent(Digits(limit=40, labels=False))))
    (generator,) = tmp_path.rglob("last.ckpt")
    with pytest.raises(FlowlitError, match="was trained on pairs or as a generator"):
        CriticModule(tiny_unet(), DMD(pretrained(str(generator), "raw")), Critic(tiny_unet()))


def test_noise_of_optimal_transport_is_not_fresh(tmp_path):
    file = fit(tmp_path, Teacher(tiny_unet()), OptimalTransport(Digits(limit=40, labels=False)))
    assert trained_on(pretrained(str(file), "raw"))["fresh_noise"] is False


def test_prompts_do_not_change_that_noise_is_fresh(tmp_path):
    """A teacher of prompts may be the guide of score distillation."""
    pytest.importorskip("transformers", reason="flowlit[text] is not installed")
    encoder = RandomCLIPText(width=16, length=4)
    prompts = Prompts(classes=[f"digit {i}" for i in range(10)], template="{}")
    network = tiny_unet()
    take_data(network, SimpleNamespace(coupling=PromptedImages(Digits(limit=8), prompts, encoder)), flow=True)
    assert "fresh_noise" not in trained_on(network)
    take_data(network, SimpleNamespace(coupling=OptimalTransport(Digits(limit=8))), flow=True)
    assert trained_on(network)["fresh_noise"] is False
