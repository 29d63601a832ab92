"""Calibration of features: the changes of images by hand, and the whole of it on tiny zips."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import calibration, changes
from benchmarks.__main__ import main
from flowlit.errors import FlowlitError
from flowlit.metrics.base import FeatureExtractor

pytestmark = pytest.mark.usefixtures("loud_afterwards")


class Patches(FeatureExtractor):
    """Means and deviations of the quarters of each channel: eight numbers."""

    name = "patches"

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += len(images)
        x = images.float().mean(1).unfold(1, 4, 4).unfold(2, 4, 4).reshape(len(images), -1, 16)
        return torch.cat([x.mean(2), x.std(2)], 1)

    def fingerprint(self):
        return "patches"


def zipped(path, num, seed, labels=True):
    draws = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as file:
        classes = draws.integers(0, 4, num)
        for i in range(num):
            image = draws.integers(0, 120, (8, 8, 3)) + 30 * classes[i]
            data = io.BytesIO()
            Image.fromarray(image.astype(np.uint8)).save(data, "PNG")
            file.writestr(f"{i}.png", data.getvalue())
        if labels:
            names = [[f"{i}.png", int(classes[i])] for i in range(num)]
            file.writestr("dataset.json", json.dumps({"labels": names}))
    return str(path)


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zips")
    return {
        "images": [zipped(folder / "train.zip", 320, 1)],
        "held_out": [zipped(folder / "test.zip", 64, 2)],
    }


def test_it_measures_every_change_and_goes_on_with_the_features_it_has(zips, tmp_path):
    sizes = {**calibration.QUICK, **zips, "into": str(tmp_path)}
    first, again = Patches(), Patches()
    result = calibration.run(**sizes, extractor=first)
    rows, growth = result.tables.values()
    by_name = {row["images"]: row for row in rows}
    assert list(by_name) == [
        "held-out images",
        "other training images",
        "noise of ±8 levels",
        "256 colours",
        "3×3 blur",
        "resolution 4",
        "resolution 2",
        "half of the classes",
        "6 images, 10 times each",
    ]
    assert [row["a side"] for row in growth] == [16, 32, 64] * 2
    assert by_name["3×3 blur"]["extrapolated"] > 3 * abs(by_name["other training images"]["extrapolated"])
    assert by_name["half of the classes"]["kernel"] > by_name["held-out images"]["kernel"]
    for row in rows + growth:
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))
        assert row["± extrapolated"] > 0
    assert growth[2]["Fréchet"] == by_name["other training images"]["Fréchet"]
    assert all(isinstance(claim.met, bool) for claim in result.claims) and len(result.claims) == 4
    assert Image.open(tmp_path / "calibration.png").width > 500
    next(tmp_path.rglob("3×3_blur-0.npy")).unlink()
    assert calibration.run(**sizes, extractor=again).tables == result.tables
    assert first.calls == 9 * 64 and again.calls == 64


def test_images_without_classes_and_other_resolutions(tmp_path):
    train, test = zipped(tmp_path / "a.zip", 130, 1, labels=False), zipped(tmp_path / "b.zip", 64, 2, False)
    sizes = {**calibration.QUICK, "images": [train], "held_out": [test], "into": str(tmp_path)}
    rows, _ = calibration.run(**sizes, resolution=4, extractor=Patches()).tables.values()
    names = [row["images"] for row in rows]
    assert "resolution 2" in names and "resolution 1" in names and "half of the classes" not in names


def test_missing_and_too_few_images_are_one_error(zips, tmp_path):
    with pytest.raises(FlowlitError, match=r"name them: --images"):
        calibration.run(into=str(tmp_path), extractor=Patches())
    with pytest.raises(FlowlitError, match="found 64 images, expected 65"):
        calibration.run(**zips, count=65, into=str(tmp_path), extractor=Patches())
    with pytest.raises(FlowlitError, match="found 320 images, expected 322"):
        calibration.run(**zips, count=161, into=str(tmp_path), extractor=Patches())
    assert not list(tmp_path.iterdir())


def test_the_changes_are_what_they_are_called():
    x = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(changes.unchanged(x, 0), x)
    blurred = changes.blurred(x, 0)
    assert blurred[1, 2, 3, 4] == round(float(x[1, 2, 2:5, 3:6].float().mean()))
    noise = changes.noisy(x, 0).int() - x.int()
    inside = (x >= 8) & (x <= 247)
    assert set(noise[inside].tolist()) == set(range(-8, 9)) and noise.abs().max() == 8
    assert not torch.equal(changes.noisy(x, 1), changes.noisy(x, 0))
    assert torch.equal(changes.noisy(x, 1), changes.noisy(x, 1))
    colours = changes.few_colours(x, 0)
    assert [len(colours[:, channel].unique()) for channel in range(3)] == [8, 8, 4]
    assert (colours.int() - x.int()).abs().amax((0, 2, 3)).tolist() == [18, 18, 42]
    flat = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(changes.reduced(2)(flat, 0), flat)
    small = changes.reduced(4)(x, 0)
    assert small.shape == x.shape and small[0, 0, 0, 0] == round(float(x[0, 0, :2, :2].float().mean()))


def test_averaging_is_over_areas(zips):
    images = changes.opened(zips["images"])
    whole, half = changes.read(images, [3, 5], 0), changes.read(images, [3, 5], 4)
    expected = whole.pixels.float().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)).round().byte()
    assert torch.equal(half.pixels, expected) and torch.equal(half.labels, whole.labels)


def test_options_of_calibration_are_refused_elsewhere(capsys):
    with pytest.raises(SystemExit):
        main(["statistics", "--count", "3"])
    assert "statistics takes no --count; it is for calibration" in capsys.readouterr().err


def test_the_command_passes_its_options(zips, tmp_path, monkeypatch, capsys):
    given = {}
    original = calibration.run

    def run(**sizes):
        given.update(sizes)
        return original(**sizes, extractor=Patches())

    monkeypatch.setattr(calibration, "run", run)
    words = ["calibration", "--quick", "--images", *zips["images"], "--held_out", *zips["held_out"]]
    assert (
        main([*words, "--into", str(tmp_path / "run"), "--seed", "3", "--out", str(tmp_path / "a.json")]) == 0
    )
    assert (given["seed"], given["count"], given["images"]) == (3, 64, zips["images"])
    assert json.loads((tmp_path / "a.json").read_text())["tables"] and "3×3 blur" in capsys.readouterr().out
