"""Images of ``flowlit predict`` as files: whole, listed, and of one run."""

import csv
import hashlib
import json

import pytest
import tiny
import torch
from PIL import Image
from tools import randomise, tiny_unet

from flowlit._support.locks import locked_folder
from flowlit.callbacks import ImageWriter
from flowlit.couplings import SeededNoise
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.folder import LIST, RECORD, write_png
from flowlit.modules import FlowDataModule, Teacher
from flowlit.solvers import Euler, Heun

NAMES = ("cat", "dog, large", "emu")


HEUN = Heun(2)


def predict(folder, num=5, solver=HEUN, weights=1, names=NAMES, batch=2, **noise):
    network = randomise(tiny_unet(num_classes=3), weights)
    network.class_names = names
    data = FlowDataModule(
        noise=SeededNoise(tiny.SHAPE, num, **{"num_classes": 3, **noise}), noise_batch_size=batch
    )
    trainer = tiny.trainer(folder, 1, [ImageWriter(str(folder / "png"))])
    trainer.predict(Teacher(network, solvers={"solver": solver}), data, return_predictions=False)
    return folder / "png"


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def rows(folder):
    return list(csv.DictReader((folder / LIST).read_text().splitlines()))


def test_a_list_beside_the_images_has_their_classes_and_names(tmp_path):
    listed = rows(predict(tmp_path))
    assert [row["file"] for row in listed] == [f"{i:08d}.png" for i in range(5)]
    assert [row["index"] for row in listed] == list("01234")
    assert [row["class"] for row in listed] == list("01201")
    assert [row["name"] for row in listed] == ["cat", "dog, large", "emu", "cat", "dog, large"]


def test_images_may_stand_in_the_folder_of_the_run(tmp_path):
    """The trainer holds it already."""
    with locked_folder(tmp_path / "png", "predict", ""):
        assert len(rows(predict(tmp_path))) == 5


def test_images_of_one_class_are_listed_as_such(tmp_path):
    folder = predict(tmp_path, labels=2)
    assert {(row["class"], row["name"]) for row in rows(folder)} == {("2", "emu")}
    network = randomise(tiny_unet(num_classes=3), 1).eval()
    images = Generator(network, Heun(2), Pixels(), tiny.SHAPE, 3).sample(5, label=2)
    for i, image in enumerate(images):
        assert list(Image.open(folder / f"{i:08d}.png").getdata()) == image.flatten().tolist()


def test_classes_without_names_are_listed_by_number(tmp_path):
    assert [(row["class"], row["name"]) for row in rows(predict(tmp_path, 2, names=None))] == [
        ("0", ""),
        ("1", ""),
    ]


def test_the_same_command_again_leaves_the_same_files(tmp_path):
    before = contents(predict(tmp_path))
    assert contents(predict(tmp_path, batch=5)) == before


def test_more_images_of_the_same_run_join_those_that_are_there(tmp_path):
    few = contents(predict(tmp_path, 3))
    many = contents(predict(tmp_path, 7))
    images = {name: content for name, content in few.items() if name.endswith(".png")}
    assert len(images) == 3 and images.items() < many.items()
    assert (
        len(rows(tmp_path / "png")) == 7
        and json.loads((tmp_path / "png" / RECORD).read_text())["images"] == 7
    )


OTHERS = {
    "another seed": ({"seed": 8}, "noise.seed: 0 there, 8 now"),
    "other classes": ({"labels": 1}, "noise.labels: balanced by index there, all 1 now"),
    "other weights": ({"weights": 2}, "weights: "),
    "another solver": ({"solver": Euler(1)}, "solver.class_path"),
    "more steps": ({"solver": Heun(3)}, "solver.init_args.steps: 2 there, 3 now"),
    "fewer images": ({"num": 4}, "5 images there, 4 now"),
}


@pytest.mark.parametrize(("changes", "words"), OTHERS.values(), ids=OTHERS)
def test_images_of_another_run_are_not_mixed_in(tmp_path, changes, words):
    before = contents(predict(tmp_path))
    with pytest.raises(FlowlitError, match=r"holds images of another run.*choose another folder") as error:
        predict(tmp_path, **changes)
    assert words in str(error.value)
    assert contents(tmp_path / "png") == before


def test_images_that_nothing_is_known_of_are_not_mixed_in(tmp_path):
    (tmp_path / "png").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "png/holiday.png")
    with pytest.raises(FlowlitError, match=r"holds 1 images already, and no images.json"):
        predict(tmp_path)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "flowlit-images", "version": 1, "facts": 3}'])
def test_a_damaged_record_is_one_error(tmp_path, damage):
    (predict(tmp_path) / RECORD).write_text(damage)
    with pytest.raises(FlowlitError, match="no record of generated images"):
        predict(tmp_path)


def test_an_interrupted_run_goes_on_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    whole = contents(predict(tmp_path / "whole"))
    calls = []

    def stop(path, image):
        calls.append(path)
        if len(calls) == 4:
            (path.parent / f".{path.name}.0123.tmp").write_bytes(b"half")  # as a killed process leaves it
            raise KeyboardInterrupt
        write_png(path, image)

    monkeypatch.setattr("flowlit.callbacks.evaluation.images.write_png", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        predict(tmp_path / "stopped")
    left = tmp_path / "stopped/png"
    assert not (left / LIST).exists() and not json.loads((left / RECORD).read_text())["complete"]
    assert len(list(left.glob("*.png"))) == 3
    monkeypatch.undo()
    assert contents(predict(tmp_path / "stopped")) == whole


def test_a_failed_write_leaves_no_image(tmp_path):
    class Unwritable(torch.Tensor):
        pass

    with pytest.raises(FlowlitError, match="images of 2 channels"):
        write_png(tmp_path / "a.png", torch.zeros(2, 8, 8, dtype=torch.uint8))
    with pytest.raises(Exception):  # noqa: B017 - whatever the encoder says
        write_png(tmp_path / "a.png", torch.zeros(1, 0, 0, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_more_images_than_the_disk_holds_are_refused_before_the_first(tmp_path):
    with pytest.raises(FlowlitError, match="200,000,000,000,000 images need"):
        predict(tmp_path, 2 * 10**14)
    assert not (tmp_path / "png").exists()


def test_couple_makes_no_images_and_refuses_to_write_them(tmp_path):
    """It ended in an AttributeError."""
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 5))
    trainer = tiny.trainer(tmp_path, 1, [ImageWriter(str(tmp_path / "png"))])
    with pytest.raises(FlowlitError, match=r"images of flowlit predict; PairPredictor makes none: remove"):
        trainer.couple(Teacher(tiny_unet(), solvers={"solver": HEUN}), data, store=str(tmp_path / "s"), num=4)
    assert not (tmp_path / "png").exists() and not (tmp_path / "s").exists()
