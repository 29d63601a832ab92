"""Pairs of files: each image finds its small one, or an error names it."""

import numpy as np
import pytest
import torch
from pictures import encoded, into_folder, into_zip, noise

from flowlit import rng
from flowlit.couplings import DegradedImages, NoisedImage, SuperResolution
from flowlit.data import AveragePool, Chain, ImageFolder, ImageZip, PairedImages
from flowlit.data.resizing import Style, write_resized
from flowlit.errors import FlowlitError


def pooled(array, scale=2):
    height, width, channels = array.shape
    blocks = array.reshape(height // scale, scale, width // scale, scale, channels)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def written(tmp_path, large, small):
    """Two folders of images 8×8 and 4×4; equal numbers are one image."""
    pixels = {n: np.roll(noise(8, 8, 3), n, 1) for n in {*large.values(), *small.values()}}
    into_folder(tmp_path / "large", {name: encoded(pixels[n]) for name, n in large.items()})
    into_folder(tmp_path / "small", {name: encoded(pooled(pixels[n])) for name, n in small.items()})
    return ImageFolder(str(tmp_path / "large")), ImageFolder(str(tmp_path / "small"))


def pair(tmp_path, names=("a", "b", "c")):
    large = {f"{name}.png": n for n, name in enumerate(names)}
    small = {f"{name}x2.png": n for n, name in reversed([*enumerate(names)])}
    return PairedImages(*written(tmp_path, large, small), endings=["", "x2"])


def drawn(coupling, rows):
    items = [coupling.dataset()[i] for i in rows]
    rng.begin(rng.Share(seed=4, total=len(rows), rows=len(rows)))
    try:
        batch = {name: torch.stack([item[name] for item in items]) for name in ("x1", "small")}
        return coupling.complete({**batch, "cond": {}}, torch.device("cpu"))
    finally:
        rng.begin(None)


def test_small_images_follow_the_cuts_and_mirrors_of_large_ones(tmp_path):
    images = pair(tmp_path)
    coupling = SuperResolution(images, AveragePool(2), NoisedImage(0.0), crop=4, flip=True, vertical_flip=0.5)
    batch = drawn(coupling, [0, 1, 2] * 20)
    assert len({tuple(row.flatten().tolist()) for row in batch.x1}) > 20
    means = AveragePool(2).enlarge(torch.nn.functional.avg_pool2d(batch.x1, 2))
    assert (means - batch.cond["image"]).abs().max() < 1.01 / 255  # the small ones are rounded
    assert torch.equal(batch.x0, batch.cond["image"])


@pytest.mark.parametrize("crop", [None, 4, 6])
def test_validation_degrades_nothing(tmp_path, crop):
    source = DegradedImages(pair(tmp_path), AveragePool(2), NoisedImage(0.0), num=5, crop=crop)
    rows = source.batch([0, 4])
    targets = source.targets([0, 4]).float() / 127.5 - 1
    means = AveragePool(2).enlarge(torch.nn.functional.avg_pool2d(targets, 2))
    assert rows.cond["image"].shape == targets.shape
    assert (means - rows.cond["image"]).abs().max() < 1.01 / 255


@pytest.mark.parametrize(
    ("large", "small", "expected"),
    [
        ({"a.png": 0, "b.png": 1}, {"a.png": 0}, "b of .*large is not in .*small"),
        ({"a.png": 0}, {"a.png": 0, "c.png": 2, "d.png": 3}, "c, d of .*small are not in .*large"),
        ({"a.png": 0}, {"b.png": 0}, "a of .*large is not in .*small; b of .*small is not in .*large"),
        ({f"{n}.png": n for n in range(6)}, {"0.png": 0}, "1, 2, 3 and 2 more of"),
        ({"a.png": 0}, {"a.png": 0, "a.bmp": 1}, "a.bmp and a.png, both for a"),
    ],
    ids=["no small one", "no large one", "neither", "many", "twice"],
)
def test_what_has_no_partner_is_named(tmp_path, large, small, expected):
    images = PairedImages(*written(tmp_path, large, small))
    with pytest.raises(FlowlitError, match=expected):
        len(images)
    with pytest.raises(FlowlitError, match=expected):
        SuperResolution(images, AveragePool(2), NoisedImage(0.0)).dataset()


def test_a_part_is_found_among_all_small_images(tmp_path):
    files = written(tmp_path, {f"{n}.png": n for n in range(40)}, {f"{n}.png": n for n in range(40)})
    root = str(tmp_path / "large")
    parts = [
        PairedImages(ImageFolder(root, part=part, held_out=0.3), files[1]) for part in ("train", "held_out")
    ]
    assert len(parts[0]) + len(parts[1]) == 40 and 0 < len(parts[1]) < 40
    assert parts[0].fingerprint != parts[1].fingerprint
    for part in parts:
        item = part[len(part) - 1]
        expected = pooled(item["x1"].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(item["small"].permute(1, 2, 0).numpy(), expected)
    with pytest.raises(FlowlitError, match="part of the small images is train; expected all"):
        PairedImages(files[0], ImageFolder(str(tmp_path / "small"), part="train"))


def test_other_scales_and_guides_are_refused(tmp_path):
    images = pair(tmp_path)
    with pytest.raises(FlowlitError, match="8×8 pixels, and small ones 4×4; expected 1 / 4"):
        SuperResolution(images, AveragePool(4), NoisedImage(0.0)).dataset()
    with pytest.raises(FlowlitError, match="small ones 4×4"):
        DegradedImages(images, AveragePool(4), NoisedImage(0.0), num=1).shape  # noqa: B018
    chain = Chain([AveragePool(2), AveragePool(1)])
    with pytest.raises(FlowlitError, match="guide_steps is given"):
        SuperResolution(images, chain, NoisedImage(0.0), guide_steps=1).dataset()
    with pytest.raises(FlowlitError, match="expected two"):
        PairedImages(images.images, images.small, endings=["x4"])


def test_images_of_many_sizes_are_cut_alike(tmp_path):
    """HR and LR of 20×12 and 8×16 pixels become zips of patches, whose names fit."""
    pixels = {"a": noise(20, 12, 3), "b": noise(8, 16, 3)}
    into_folder(tmp_path / "large", {f"{name}.png": encoded(p) for name, p in pixels.items()})
    into_folder(tmp_path / "small", {f"{name}x2.png": encoded(pooled(p)) for name, p in pixels.items()})
    for name, side in (("large", 8), ("small", 4)):
        files = ImageFolder(str(tmp_path / name))
        write_resized(files, str(tmp_path / f"{name}.zip"), Style(side, "patches", "white"))
    zips = [ImageZip(str(tmp_path / f"{name}.zip")) for name in ("large", "small")]
    images = PairedImages(*zips, endings=["", "x2"])
    assert len(images) == 4
    for item in (images[i] for i in range(4)):
        expected = pooled(item["x1"].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(item["small"].permute(1, 2, 0).numpy(), expected)


def test_zips_name_what_they_lack(tmp_path):
    png = encoded(noise(8, 8, 3))
    large = into_zip(tmp_path / "large.zip", {"0001.png": png, "0002.png": png})
    small = into_zip(tmp_path / "small.zip", {"0001.png": encoded(noise(4, 4, 3))})
    with pytest.raises(FlowlitError, match=r"0002 of .*large\.zip is not in .*small\.zip"):
        len(PairedImages(ImageZip(str(large)), ImageZip(str(small))))
