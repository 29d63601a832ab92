"""Images of several files, and of torchvision's CIFAR-10, become one zip."""

import numpy as np
import pytest
from pictures import encoded, into_zip, noise

from flowlit.data import ImageZip


def test_a_pattern_names_several_zips(cli, tmp_path):
    for shard in range(2):
        into_zip(tmp_path / f"train-{shard}.zip", {f"{shard}.png": encoded(noise(8, 8, 3))})
    into_zip(tmp_path / "test.zip", {"other.png": encoded(noise(8, 8, 3))})
    words = ("--resolution", 4, "--filter", "box", "--into", tmp_path / "small.zip")
    assert "2 images, 4×4" in cli("images", tmp_path / "train-*.zip", *words).out
    assert len(ImageZip(str(tmp_path / "small.zip"))) == 2


def test_a_pattern_that_names_nothing_is_an_error(cli, tmp_path):
    error = cli("images", tmp_path / "*.zip", "--resolution", 4, "--into", tmp_path / "small.zip").error
    assert "*.zip does not exist; expected a folder, a zip, or a pattern of zips" in error


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_torchvisions_cifar10_is_read_with_its_classes(cli, tmp_path, monkeypatch, name):
    class Stub:
        data = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
        targets = (0, 9, 9)

    (tmp_path / "cifar10" / name).mkdir(parents=True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *args, **kwargs: Stub)
    words = ("--resolution", 32, "--into", tmp_path / "new.zip")
    assert "3 images of 10 classes" in cli("images", tmp_path / "cifar10", *words).out
    images = ImageZip(str(tmp_path / "new.zip"), labels=True)
    assert (images[1]["x1"].permute(1, 2, 0).numpy() == Stub.data[1]).all()
    assert [int(images[i]["cond"]["label"]) for i in range(3)] == [0, 9, 9]
