"""A picture of a store."""

import numpy as np
import pytest
import torch
from PIL import Image
from suspects import fill, noise_origin

from flowlit.couplings.store.picture import pictured, show
from flowlit.errors import FlowlitError
from flowlit.types import Pair


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("num", "storage"), [(60, {"x0": "seed", "x1": "uint8"}), (5, {}), (1, {"x0": "float32"})], ids=str
)
def test_a_picture_is_written(tmp_path, channels, num, storage):
    store = fill(tmp_path / "pairs", num, noise_origin(num, shape=(channels, 8, 8)), **storage)
    show(store, tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as image:
        assert image.format == "PNG" and 600 < image.height < image.width < 3000
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 10, "something is drawn"


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (3, 3), (4, 3), (2, 1)])
def test_noise_stands_above_its_data(channels, shown):
    x0, x1 = torch.zeros(10, channels, 4, 6), torch.zeros(10, channels, 4, 6)
    for i in range(10):
        x0[i], x1[i] = -3 + 0.6 * i, -1 + 0.2 * i  # both are grey level 25.5 i
    x0[:, 0], x1[:, 0] = x0[:, 0], 1.0  # the first channel tells noise from data
    picture = pictured(Pair(x0, x1))
    assert picture.shape[2] == 3 and picture.dtype == np.uint8
    assert picture.shape[:2] == (4 * (4 + 2), 8 * (6 + 2)), "two rows of pairs, eight across"

    def pixel(row, column):
        return picture[row * 6 + 3, column * 8 + 4].tolist()

    for i in range(10):
        grey, (row, column) = round(25.5 * i), (2 * (i // 8), i % 8)
        np.testing.assert_allclose(pixel(row, column), [grey] * 3, atol=1)
        np.testing.assert_allclose(pixel(row + 1, column), [255, *[255 if shown == 1 else grey] * 2], atol=1)


def test_noise_is_scaled_and_clipped():
    picture = pictured(Pair(torch.full((2, 1, 4, 4), -9.0), torch.full((2, 1, 4, 4), 9.0)))
    assert (picture[1:5, 1:5] == 0).all() and (picture[7:11, 1:5] == 255).all()


def test_the_seed_chooses_the_pairs(tmp_path):
    store = fill(tmp_path / "pairs", 100)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        show(store, tmp_path / f"{name}.png", seed=seed)
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_only_finished_stores_are_shown(tmp_path):
    fill(tmp_path / "half", shards=[0], finish=False)
    with pytest.raises(FlowlitError, match="not finished"):
        show(tmp_path / "half", tmp_path / "shown.png")
    assert not (tmp_path / "shown.png").exists()


def test_showing_by_command(cli, tmp_path):
    store = fill(tmp_path / "pairs", 20)
    assert cli("couplings", "show", f"{store}/").out.strip() == f"{store}.png"
    done = cli("couplings", "show", store, "--into", tmp_path / "other.png", "--seed", 3)
    assert done.code == 0 and Image.open(tmp_path / "other.png").format == "PNG"


@pytest.mark.parametrize("into", ["nowhere/shown.png", "shown.words"])
def test_a_picture_that_cannot_be_written_is_one_error(cli, tmp_path, into):
    store = fill(tmp_path / "pairs", 20)
    assert into in cli("couplings", "show", store, "--into", tmp_path / into).error
