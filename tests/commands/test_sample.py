"""``flowlit sample`` writes the images of seeds in every form, goes on, and refuses before any work."""

import csv
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from matrix import few
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tools import randomise, tiny_unet

import flowlit
from flowlit._support.files import write_atomically
from flowlit._support.progress import Bar
from flowlit.commands.sample.request import numbers_of
from flowlit.commands.sample.solver import parsed, solver_of
from flowlit.data import ImageZip, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.networks import ConcatenatedImage, UNet
from flowlit.solvers import RK45, Euler, Heun, Midpoint, OneStep

NAMES = ("cat", "dog", "7")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = randomise(tiny_unet(num_classes=3), 1).eval()
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    Generator(network, Euler(1), Pixels(), class_names=NAMES).save(path)
    return path


@pytest.fixture(scope="module")
def generator(model):
    return flowlit.load(model)


def pixels(path):
    """Return the images of a folder, in order, (N, H, W)."""
    return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_has_the_images_of_the_seed_and_their_classes(cli, model, generator, tmp_path):
    outcome = cli("sample", model, "--num", 7, "--seed", 3, "--batch_size", 4, "--into", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("out: 7 images of 1×8×8\n")
    np.testing.assert_array_equal(pixels(tmp_path / "out"), generator.sample(7, seed=3)[:, 0])
    rows = list(csv.DictReader((tmp_path / "out/images.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [NAMES[i % 3] for i in range(7)]


def test_seeds_are_numbers_and_ranges_and_are_listed(cli, model, generator, tmp_path):
    words = ("--seeds", 9, "2-4", "--labels", "dog", "--into", tmp_path / "out")
    assert cli("sample", model, *words).code == 0
    expected = generator.sample(seeds=[9, 2, 3, 4], labels="dog")
    np.testing.assert_array_equal(pixels(tmp_path / "out"), expected[:, 0])
    rows = list(csv.DictReader((tmp_path / "out/images.csv").read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["9", "2", "3", "4"]


def test_a_zip_is_read_by_image_zip_with_its_classes(cli, model, generator, tmp_path):
    words = ("--num", 5, "--labels", 0, "dog", 1, "7", "cat")
    assert cli("sample", model, *words, "--into", tmp_path / "a.zip").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    images = ImageZip(str(tmp_path / "a.zip"), channels=1, labels=True)
    labels = [0, 1, 1, 2, 0]
    assert images.classes == NAMES and [int(image["cond"]["label"]) for image in images] == labels
    expected = generator.sample(5, labels=labels)
    assert torch.equal(torch.stack([image["x1"] for image in images]), expected)


def test_arrays_are_those_of_adm_and_edm(cli, model, generator, tmp_path):
    assert cli("sample", model, "--num", 5, "--into", tmp_path / "a.npz").code == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(arrays["arr_0"], generator.sample(5).permute(0, 2, 3, 1))
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_1"].dtype == np.int64
        assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1]


def test_a_grid_is_that_of_the_generator_and_says_what_made_it(cli, model, generator, tmp_path):
    assert cli("sample", model, "--num", 6, "--columns", 3, "--into", tmp_path / "a.png").code == 0
    picture = Image.open(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(generator.grid(6, columns=3)))
    assert json.loads(picture.text["flowlit"])["solver"]["class_path"] == "flowlit.solvers.Euler"


def test_without_classes_there_are_none(cli, tmp_path):
    model = tmp_path / "model.safetensors"
    Generator(randomise(tiny_unet(in_channels=3), 1), Euler(1), Pixels()).save(model)
    for name in ("a.zip", "a.npz"):
        assert cli("sample", tmp_path, "--num", 2, "--into", tmp_path / name).code == 0
    assert len(ImageZip(str(tmp_path / "a.zip"))) == 2
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["arr_0"] and arrays["arr_0"].shape == (2, 8, 8, 3)


@pytest.mark.parametrize("name", few(["out", "a.zip", "a.npz"], 2))
def test_a_killed_run_goes_on_and_makes_no_image_twice(cli, model, tmp_path, monkeypatch, name):
    words = ("sample", model, "--num", 9, "--batch_size", 2, "--into")
    assert cli(*words, tmp_path / "expected" / name).code == 0
    calls = []

    def stop(path, content, lasting=True):
        calls.append(path)
        if path.name == "00000005.png" and len(calls) < 9:
            (path.parent / f".{path.name}.0123.tmp").write_bytes(b"half")  # as a killed process leaves it
            raise KeyboardInterrupt
        write_atomically(path, content, lasting)

    monkeypatch.setattr("flowlit.generators.folder.write_atomically", stop)
    assert cli(*words, tmp_path / "stopped" / name).code == 130
    place = tmp_path / "stopped" / (name if name == "out" else f"{name}.parts")
    assert (
        len(list(place.glob("*.png"))) == 5
        and not json.loads((place / "images.json").read_text())["complete"]
    )
    (place / "00000001.png").write_bytes(b"\x89PNG")  # cut short, as by a power cut
    assert cli(*words, tmp_path / "stopped" / name).code == 0
    assert sum(path.suffix == ".png" for path in calls) == 6 + 5
    places = [tmp_path / each / (name if name == "out" else "") for each in ("stopped", "expected")]
    assert contents(places[0]) == contents(places[1])


def test_more_images_join_those_that_are_there(cli, model, generator, tmp_path):
    for num in (3, 5):
        assert cli("sample", model, "--num", num, "--into", tmp_path / "out").code == 0
    np.testing.assert_array_equal(pixels(tmp_path / "out"), generator.sample(5)[:, 0])


@pytest.mark.parametrize(
    ("words", "expected"),
    few(
        [
            (("--seed", 1), "noise.seed: 0 there, 1 now"),
            (("--num", 2), "4 images there, 2 now"),
            (("--solver", "Heun", "--nfe", 2), "solver.class_path"),
            (("--labels", "dog"), "noise.labels"),
            (("--seeds", "0-3"), "noise.seed"),
        ],
        2,
    ),
    ids=str,
)
def test_a_folder_of_other_settings_is_refused(cli, model, tmp_path, words, expected):
    cli("sample", model, "--num", 4, "--into", tmp_path / "out")
    before = contents(tmp_path / "out")
    given = ("--num", 4) if words[0] not in ("--num", "--seeds") else ()
    error = cli("sample", model, *given, *words, "--into", tmp_path / "out").error
    assert "holds images of another run" in error and expected in error
    assert contents(tmp_path / "out") == before


REFUSED = {
    ("--num", 0): "whole number > 0",
    ("--num", -2): "whole number > 0",
    ("--batch_size", 0): "whole number > 0",
    ("--nfe", -1): "whole number > 0",
    ("--seed", -1): "in [0, 2**64)",
    ("--seed", 0, "--seeds", 1): "--seeds and --seed are both given",
    ("--num", 4, "--seeds", 1): "--seeds and --num are both given",
    ("--seeds", "-1"): "--seeds '-1': expected whole numbers",
    ("--seeds", "3-1"): "--seeds '3-1': expected whole numbers",
    ("--seeds", "0-18446744073709551616"): "2^64 - 1",
    ("--seeds", "0-99999999999"): "100,000,000,000 seeds; expected 10,000,000 at most",
    ("--labels", "emu"): "label is 'emu', which is none of its 3 classes: cat, dog, 7",
    ("--labels", 3): "label is 3; expected a whole number from 0 to 2",
    ("--labels", "-1"): "label is -1",
    ("--num", 3, "--labels", 0, 1): "2 labels for 3 images",
    ("--num", 3, "--labels", 0, 1, 0, 1): "4 labels for 3 images",
    ("--solver", "heuns"): "did you mean Heun?",
    ("--solver", "Heun"): "it needs steps; expected Heun(steps=4), or --nfe",
    ("--solver", "Heun(foo=1)"): "Heun has no foo; expected steps, rho",
    ("--solver", "Heun(steps=0)"): "steps is 0",
    ("--solver", "Heun(-2)"): "steps is -2",
    ("--solver", "Heun(2, steps=3)"): "1 numbers without a name do not fit; write them as steps=4",
    ("--solver", "Heun(2, 1, 1, 1)"): "4 numbers without a name do not fit",
    ("--solver", "mine.Leap(3)"): "3 has no name; write which setting it is, as steps=3",
    ("--solver", "open('x')"): "expected a class, as Heun",
    ("--solver", "eval(x=1)"): "there is none of that name",
    ("--solver", "os.system"): "os.system",
    ("--solver", "Heun", "--nfe", 3): "Heun cannot have; its numbers next to it are 2 and 4",
    ("--solver", "RK45", "--nfe", 3): "RK45 has no steps",
    ("--weights", "swa"): "weights is 'swa'",
    ("--device", "cuda:99"): "device is 'cuda:99'",
    ("--frames", 4): "--frames is for --interpolate and --trajectory",
    ("--interpolate", 1): "--interpolate has one seed",
    ("--interpolate", 1, 2, "--num", 4): "--interpolate and --num are both given",
    ("--interpolate", 1, 2, "--trajectory"): "--interpolate and --trajectory are both given",
    ("--trajectory", "--frames", 1): "--frames is 1; expected 2 or more",
    ("--trajectory", "--columns", 3): "--columns is for a grid",
}


@pytest.mark.parametrize(("words", "expected"), REFUSED.items(), ids=str)
def test_what_does_not_fit_is_refused_before_any_work(cli, model, tmp_path, words, expected):
    error = cli("sample", model, *words, "--into", tmp_path / "a.png").error
    assert expected in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("a.jpg", (), "a name that ends in .png (one grid), .zip or .npz"),
        ("a.gif", (), "animations are for --interpolate and --trajectory"),
        ("a.zip", ("--trajectory",), "ends in .png, .gif or .webp"),
        ("a", ("--interpolate", 1, 2), "ends in .png, .gif or .webp"),
        ("a.zip", ("--columns", 3), "--columns is for a grid"),
    ],
    ids=str,
)
def test_names_say_the_form(cli, model, tmp_path, name, words, expected):
    error = cli("sample", model, *words, "--into", tmp_path / name).error
    assert expected in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.zip", "a.npz", "file"])
def test_no_file_is_replaced(cli, model, tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    error = cli("sample", model, "--into", tmp_path / name).error
    assert "exists" in error or "is a file" in error
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(("form", "place"), [("out", "out"), ("a.zip", "a.zip.parts")])
def test_folders_of_others_stay_as_they_are(cli, model, tmp_path, form, place):
    (tmp_path / place).mkdir()
    (tmp_path / place / "holiday.txt").write_bytes(b"mine")
    error = cli("sample", model, "--into", tmp_path / form).error
    assert "holds holiday.txt already" in error
    assert contents(tmp_path / place) == {"holiday.txt": b"mine"}


def test_a_full_disk_is_met_before_the_first_image(cli, model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    for name in ("out", "a.zip"):
        error = cli("sample", model, "--num", 50, "--into", tmp_path / name).error
        assert "50 images need 0.0 GB" in error and not list(tmp_path.iterdir())


def test_super_resolution_is_sent_to_upscale(cli, tmp_path):
    network = ConcatenatedImage(UNet(8, 3, 8, (1, 2), 1, (), 0.0))
    Generator(network, OneStep(1.0), Pixels()).save(tmp_path / "sr.safetensors")
    error = cli("sample", tmp_path / "sr.safetensors", "--into", tmp_path / "a.png").error
    assert "enlarges images" in error and "flowlit upscale my_photos --model" in error


def test_a_checkpoint_of_a_later_version_says_so(cli, model, tmp_path):
    with safe_open(model, "pt") as file:
        metadata = {
            key: value.replace('"version": "0.', '"version": "9.') for key, value in file.metadata().items()
        }
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, tmp_path / "later.safetensors", metadata)
    error = cli("sample", tmp_path / "later.safetensors", "--into", tmp_path / "a.png").error
    assert "was written by flowlit 9." in error and "install a newer flowlit" in error


def test_interpolations_are_a_grid_or_an_animation(cli, model, generator, tmp_path):
    words = ("sample", model, "--interpolate", 1, 2, "--frames", 5, "--labels", "dog", "--into")
    assert cli(*words, tmp_path / "a.png").code == 0
    images = generator.interpolate([1, 2], 5, "dog")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.png")), np.asarray(flowlit.grid(images, columns=5))
    )
    for name in ("a.gif", "a.webp"):
        assert cli(*words, tmp_path / name).code == 0
        animation = Image.open(tmp_path / name)
        assert animation.n_frames == 5 and animation.info["loop"] == 0 and animation.size == (64, 64)
        animation.seek(4)
        last = np.asarray(animation.convert("L"))[::8, ::8]
        np.testing.assert_array_equal(last, images[-1, 0])


def test_a_trajectory_ends_at_the_images(cli, model, generator, tmp_path):
    words = ("sample", model, "--trajectory", "--num", 3, "--solver", "Heun", "--nfe", 4, "--into")
    assert cli(*words, tmp_path / "a.png", "--frames", 4).code == 0
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape == (3 * 65 + 1, 4 * 65 + 1)
    expected = flowlit.load(generator.network and _file(generator), solver=Heun(2)).sample(3)
    np.testing.assert_array_equal(picture[1:65:8, 3 * 65 + 1 : -1 : 8], expected[0, 0])
    assert cli(*words, tmp_path / "a.gif", "--frames", 3).code == 0
    assert Image.open(tmp_path / "a.gif").n_frames == 3


def _file(generator):
    return generator.network.loaded["file"]


def test_the_progress_is_shown(cli, model, tmp_path, monkeypatch):
    monkeypatch.setattr("flowlit._support.progress.EVERY", 0.0)
    monkeypatch.setattr("flowlit.generators.filling.Bar", partial(Bar, mininterval=0))
    outcome = cli("sample", model, "--num", 8, "--batch_size", 2, "--into", tmp_path / "out")
    assert "flowlit: Sampling: 2 of 8 images" in outcome.err


def test_seeds_and_solvers_in_words():
    assert numbers_of(["0", "3-5", "18446744073709551615"], "") == [0, 3, 4, 5, 2**64 - 1]
    assert parsed("a.b.C(x=1, y='z')") == ("a.b.C", [], {"x": 1, "y": "z"})
    assert parsed("Heun(2, r=0.5)") == ("Heun", [2], {"r": 0.5})
    assert solver_of("rk45(rtol=1e-2)", None) == RK45(rtol=1e-2)
    assert solver_of("heun", 6) == Heun(1) and solver_of("Heun(steps=3)", 6) == Heun(3)
    assert solver_of("Midpoint(5)", None) == Midpoint(5) and solver_of("Heun(3, 2.0)", None) == Heun(3, 2.0)
    assert solver_of("RK45(1e-2, atol=0.1)", None) == RK45(1e-2, 0.1) and solver_of("Heun(3)", 6) == Heun(3)
    for text in (
        "",
        "Heun(",
        "Heun('2')",
        "Heun(True)",
        "Heun(*[2])",
        "Heun(steps=x)",
        "Heun()()",
        "1",
        "a b",
        "Heun(**{'steps': 2})",
        "(" * 999,
    ):
        with pytest.raises(FlowlitError, match="expected a class, as Heun"):
            parsed(text)
