"""``flowlit upscale`` enlarges each image, refuses before any work, and reports bad files at the end."""

import json

import numpy as np
import pytest
from pictures import encoded, image, noise, png
from PIL import Image

from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.networks import ConcatenatedImage, UNet
from flowlit.solvers import Euler, OneStep


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A fresh network, whose velocity is 0: with σ = 0 results are the image with its pixels repeated."""
    network = ConcatenatedImage(UNet(8, 3, 8, (1, 2), 1, (), 0.0))
    network.trained_on = {
        "name": "photos",
        "images": 4,
        "fingerprint": "photos-4",
        "super_resolution": {
            "scale": 2,
            "degradation": {"class_path": "flowlit.data.AveragePool", "init_args": {"scale": 2}},
            "start": {"class_path": "flowlit.couplings.NoisedImage", "init_args": {"sigma": 0.0}},
        },
    }
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    Generator(network, OneStep(1.0), Pixels()).save(path)
    Generator(network, Euler(1), Pixels()).save(path.with_name("teacher.safetensors"))
    return path


def folder(root, **files):
    root.mkdir()
    for name, data in files.items():
        (root / name.replace("_", ".")).write_bytes(data)
    return root


def repeated(array):
    return np.asarray(array).repeat(2, 0).repeat(2, 1)


def test_images_of_all_kinds_are_enlarged(cli, model, tmp_path):
    deep = noise(9, 7, 3, most=65535, dtype=np.uint16)
    photos = folder(
        tmp_path / "in",
        a_png=encoded(noise(9, 7, 3)),
        b_png=encoded(image("L")),
        c_PNG=png(7, 9, 16, 2, deep.astype(">u2").tobytes()),
        d_png=encoded(image("RGBA")),
        e_txt=b"no image",
    )
    words = ("--model", model, "--t", 0.7, "--scale", 2, "--into", tmp_path / "out")
    outcome = cli("upscale", photos, *words)
    assert outcome.code == 0, outcome.err
    assert "a.png: 7×9 → 14×18, 6 tiles" in outcome.out and "16 bits" in outcome.out
    results = {path.stem: Image.open(path) for path in (tmp_path / "out").iterdir()}
    assert sorted(results) == ["a", "b", "c", "d"]
    assert {name: result.size for name, result in results.items()} == dict.fromkeys("abcd", (14, 18))
    for name, source in (("a", noise(9, 7, 3)), ("b", image("L"))):
        np.testing.assert_array_equal(np.asarray(results[name]), repeated(source))
    assert results["b"].mode == "L" and results["d"].mode == "RGBA"
    assert (tmp_path / "out/c.png").read_bytes()[24] == 16
    facts = json.loads(results["a"].text["flowlit"])
    assert facts["solver"] == "OneStep(t=0.7)" and facts["scale"] == 2 and facts["tile"] == 8


def test_larger_tiles_are_fewer(cli, model, tmp_path):
    photos = folder(tmp_path / "in", a_png=encoded(noise(9, 7, 3)))
    outcome = cli("upscale", photos, "--model", model, "--tile", 18, "--into", tmp_path / "out")
    assert outcome.code == 0 and "a.png: 7×9 → 14×18, 1 tile" in outcome.out
    result = Image.open(tmp_path / "out/a.png")
    np.testing.assert_array_equal(np.asarray(result), repeated(noise(9, 7, 3)))
    assert json.loads(result.text["flowlit"])["tile"] == 18


def test_one_bad_image_among_many_is_reported_and_the_others_are_done(cli, model, tmp_path):
    photos = folder(
        tmp_path / "in",
        a_png=encoded(noise(4, 4, 3)),
        b_jpg=encoded(image("CMYK"), "JPEG"),
        c_png=encoded(noise(4, 4, 3))[:50],
        d_png=encoded(noise(4, 4, 3)),
    )
    outcome = cli("upscale", photos, "--model", model, "--into", tmp_path / "out")
    error = outcome.error
    assert "2 of 4 images failed" in error and "b.jpg: it has CMYK" in error and "c.png" in error
    assert "the other 2 are done" in error
    assert f"{photos}/b.jpg: not enlarged, it has CMYK" in outcome.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--scale", 3), "scale is 3, but the network was trained for 2"),
        (("--t", 1.5), "in [0, 1]"),
        (("--t", -0.1), "in [0, 1]"),
        (("--overlap", 8), "overlap is 8"),
        (("--tile", 6), "tile is 6; expected a multiple of the scale 2, and 8 pixels at least"),
        (("--tile", 9), "tile is 9; expected a multiple of the scale 2"),
        (("--tile", 0), "tile"),
        (("--device", "cuda:99"), "device is 'cuda:99'"),
        (("--seed", -1), "seed"),
        (("--colour", "sepia"), "wavelet"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_any_work(cli, model, tmp_path, words, expected):
    photos = folder(tmp_path / "in", a_png=encoded(noise(4, 4, 3)))
    error = cli("upscale", photos, "--model", model, "--into", tmp_path / "out", *words).error
    assert expected in error and not (tmp_path / "out").exists()


def test_every_image_that_failed_is_named(cli, model, tmp_path):
    """The error at the end names five."""
    photos = folder(tmp_path / "in", **{f"a{i}_png": b"torn" for i in range(7)})
    outcome = cli("upscale", photos, "--model", model, "--into", tmp_path / "out")
    assert "7 of 7 images failed" in outcome.error and "and 2 more" in outcome.error
    assert [f"a{i}.png: not enlarged" in outcome.out for i in range(7)] == [True] * 7


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(cli, model, tmp_path):
    photos = folder(tmp_path / "in", a_png=encoded(noise(4, 4, 3)))
    outcome = cli("upscale", photos, "--model", model, "--into", photos / "a.png/out")
    assert "a.png/out cannot be made" in outcome.error and "not enlarged" not in outcome.out


def test_a_teacher_has_no_knob_but_enlarges(cli, model, tmp_path):
    photos = folder(tmp_path / "in", a_png=encoded(noise(4, 4, 3)))
    words = ("upscale", photos, "--model", model.with_name("teacher.safetensors"), "--into", tmp_path / "out")
    assert "leave --t out" in cli(*words, "--t", 0.5).error
    assert cli(*words).code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), repeated(noise(4, 4, 3)))


def test_no_image_is_replaced(cli, model, tmp_path):
    data = encoded(noise(4, 4, 3))
    photos = folder(tmp_path / "in", a_png=data)
    words = ("--model", model)
    assert "would replace an image that is read" in cli("upscale", photos, *words, "--into", photos).error
    (tmp_path / "link").symlink_to(photos)
    assert "would replace" in cli("upscale", photos, *words, "--into", tmp_path / "link").error
    assert (photos / "a.png").read_bytes() == data
    out = folder(tmp_path / "out", a_png=b"mine")
    assert "a.png exists" in cli("upscale", photos, *words, "--into", out).error
    other = folder(tmp_path / "other", a_jpg=encoded(noise(4, 4, 3), "JPEG"))
    error = cli("upscale", photos, other, *words, "--into", tmp_path / "new").error
    assert "would both become" in error and "a.jpg" in error and not (tmp_path / "new").exists()


def test_links_to_nothing_are_neither_followed_nor_replaced(cli, model, tmp_path):
    photos = folder(tmp_path / "in", a_png=encoded(noise(4, 4, 3)))
    words = ("upscale", photos, "--model", model, "--into")
    out = folder(tmp_path / "out")
    for place in (tmp_path / "elsewhere.png", out / "a.png"):  # the latter leads to itself
        (out / "a.png").symlink_to(place)
        assert "a.png is a link to nothing; remove it" in cli(*words, out).error
        assert (out / "a.png").is_symlink() and not place.exists()
        (out / "a.png").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    error = cli(*words, tmp_path / "link").error
    assert "link is a link to nothing; expected a folder" in error and not (tmp_path / "nowhere").exists()
    (photos / "b.png").symlink_to("nowhere.png")
    (photos / "c.png").symlink_to("c.png")
    error = cli(*words, out).error
    assert "2 of 3 images failed" in error and "b.png: No such file" in error and "c.png: Too many" in error
    assert [path.name for path in out.iterdir()] == ["a.png"]


def test_what_the_memory_cannot_hold_is_reported_and_the_others_are_done(cli, model, tmp_path, monkeypatch):
    photos = folder(tmp_path / "in", a_png=encoded(noise(90, 70, 3)), b_png=encoded(noise(4, 4, 3)))
    monkeypatch.setattr("flowlit.generators.upscaling.free_memory", lambda device: 50_000)
    error = cli("upscale", photos, "--model", model, "--into", tmp_path / "out").error
    assert "1 of 2 images failed" in error and "a.png: a result of 140×180 needs" in error
    assert "50 kB are free" in error and [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


@pytest.mark.parametrize("word", ["", " "])
def test_an_empty_name_is_seen_in_its_error(cli, model, tmp_path, word):
    outcome = cli("upscale", word, "--model", model, "--into", tmp_path / "out")
    assert f"'{word}' does not exist; expected images" in outcome.error and not (tmp_path / "out").exists()


def test_words_that_are_no_images_are_refused(cli, model, tmp_path):
    empty = folder(tmp_path / "empty", notes_txt=b"")
    words = ("--model", model, "--into", tmp_path / "out")
    assert "has no images" in cli("upscale", empty, *words).error
    assert "does not exist" in cli("upscale", tmp_path / "x*.png", *words).error
    one = encoded(noise(4, 4, 3))
    photos = folder(tmp_path / "in", a_png=one)
    plain = tmp_path / "plain.safetensors"
    Generator(UNet(8, 3, 8, (1, 2), 1, (), 0.0), Euler(1), Pixels()).save(plain)
    error = cli("upscale", photos, "--model", plain, "--into", tmp_path / "out").error
    assert "is not of super-resolution" in error and "plain.safetensors" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_photograph_of_odd_size(cli, model, tmp_path):
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")[:37, :51]
    folder(tmp_path / "in", a_png=encoded(np.ascontiguousarray(photo)))
    words = ("--model", model, "--into", tmp_path / "out", "--batch", 7)
    assert cli("upscale", tmp_path / "in/*.png", *words).code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), repeated(photo))
