"""Images of any size become a zip of squares, which can be read again."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, image, into_folder, into_zip, noise, turned
from PIL import Image

from flowlit.data import ImageFolder, ImageZip
from flowlit.data.resizing import Style, write_resized
from flowlit.errors import FlowlitError

FILES = {
    "cat/a.png": encoded(noise(40, 30, 3)),
    "cat/b.jpg": turned(noise(24, 32, 3), 6),
    "cow/deep.png": encoded(image("I;16")),
    "cow/clear.png": encoded(image("RGBA")),
    "cow/left.gif": b"",
}


def resized(root, into, resolution=8, fit="crop", background="white"):
    files = ImageFolder(str(root))
    files.labels = files.labelled()
    return write_resized(files, str(into), Style(resolution, fit, background))


def content(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_has_images_classes_and_a_card(tmp_path):
    card = resized(into_folder(tmp_path / "set", FILES), tmp_path / "new.zip")
    images = ImageZip(str(tmp_path / "new.zip"), resolution=8, labels=True)
    assert [int(images[i]["cond"]["label"]) for i in range(len(images))] == [0, 0, 1, 1]
    assert images.classes == ("cat", "cow") and not images.left_out
    assert json.loads(content(tmp_path / "new.zip")["card.json"]) == card
    assert card["source"] == "set" and card["count"] == 4 and card["left_out"] == {".gif": 1}
    assert card["formats"] == {"JPEG": 1, "PNG": 3} and card["modes"] == {"I;16": 1, "RGB": 2, "RGBA": 1}
    assert card["sizes"] == {"30×40": 1, "24×32": 1, "7×9": 2} and card["enlarged"] == 2
    assert card["changes"] == {"16 bits": 1, "transparent": 1, "turned": 1}
    assert "Lanczos" in card["resampling"]


def test_the_middle_is_kept(tmp_path):
    """A white square in the middle of a black image of another shape fills the square, and only that."""
    pixels = np.zeros((60, 20), np.uint8)
    pixels[20:40] = 255
    root = into_folder(tmp_path / "set", {"a.png": encoded(pixels), "b.png": encoded(pixels.T.copy())})
    resized(root, tmp_path / "crop.zip")
    images = ImageZip(str(tmp_path / "crop.zip"), channels=1)
    for i in range(2):  # at its borders the filter looks beyond them
        assert (images[i]["x1"][0, 3:5, 3:5] == 255).all() and images[i]["x1"].min() > 100
    resized(root, tmp_path / "pad.zip", 12, "pad", "#808080")
    images = ImageZip(str(tmp_path / "pad.zip"), channels=1)
    assert (images[0]["x1"][0, :, :4] == 128).all() and (images[0]["x1"][0, :, 8:] == 128).all()
    assert images[0]["x1"][0, 0, 6] < 8 and images[0]["x1"][0, 6, 6] > 247
    assert (images[1]["x1"] == images[0]["x1"].mT).all()


def test_images_of_the_right_size_keep_their_pixels(tmp_path):
    pixels = [noise(8, 8, 3), noise(8, 8)]
    root = into_folder(tmp_path / "set", {f"{i}.png": encoded(each) for i, each in enumerate(pixels)})
    for fit in ("crop", "pad"):
        resized(root, tmp_path / f"{fit}.zip", fit=fit)
        images = ImageZip(str(tmp_path / f"{fit}.zip"))
        np.testing.assert_array_equal(images[0]["x1"].permute(1, 2, 0), pixels[0])
        np.testing.assert_array_equal(images[1]["x1"][0], pixels[1])


def test_averages_do_not_alias(tmp_path):
    """Stripes narrower than a pixel become their mean, where skipping pixels would show black or white."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    resized(into_folder(tmp_path / "set", {"a.png": encoded(stripes)}), tmp_path / "new.zip")
    assert (ImageZip(str(tmp_path / "new.zip"), channels=1)[0]["x1"].float() - 127.5).abs().max() < 8


def test_equal_images_make_equal_files(tmp_path):
    """Wherever they lie, whenever they were written, and in a folder as in a zip but for its name."""
    for name in ("one", "two"):
        resized(into_folder(tmp_path / name / "set", FILES), tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    files = ImageZip(into_zip(tmp_path / "set.zip", FILES))
    assert not files.labelled()
    write_resized(files, str(tmp_path / "three.zip"), Style(8, "crop", "white"))
    pngs = [{n: f for n, f in content(tmp_path / f"{x}.zip").items() if "img" in n} for x in ("one", "three")]
    assert pngs[0] == pngs[1]


def test_a_zip_of_a_zip_keeps_its_classes(tmp_path):
    resized(into_folder(tmp_path / "set", FILES), tmp_path / "16.zip", 16)
    files = ImageZip(str(tmp_path / "16.zip"))
    files.labels = files.labelled()
    write_resized(files, str(tmp_path / "8.zip"), Style(8, "crop", "white"))
    assert content(tmp_path / "8.zip")["dataset.json"] == content(tmp_path / "16.zip")["dataset.json"]


def test_nothing_stays_of_what_failed(tmp_path):
    root = into_folder(tmp_path / "set", {**FILES, "cow/x.png": b"broken", "cow/y.png": b""})
    with pytest.raises(FlowlitError, match=r"2 of 6 images are not readable: .*x.png"):
        resized(root, tmp_path / "new.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "new.zip").write_text("precious")
    with pytest.raises(FlowlitError, match="exists already"):
        resized(root, tmp_path / "new.zip")
    assert Path(tmp_path / "new.zip").read_text() == "precious"


def test_a_zip_of_the_same_bytes_may_be_there_already(tmp_path):
    root = into_folder(tmp_path / "set", FILES)
    card = resized(root, tmp_path / "new.zip")
    before = (tmp_path / "new.zip").stat()
    assert resized(root, tmp_path / "new.zip") == card
    assert (tmp_path / "new.zip").stat() == before


def test_a_zip_of_other_images_is_never_replaced(tmp_path):
    root = into_folder(tmp_path / "set", FILES)
    resized(root, tmp_path / "new.zip")
    before = (tmp_path / "new.zip").read_bytes()
    with pytest.raises(FlowlitError, match="exists already"):
        resized(root, tmp_path / "new.zip", fit="pad")
    name = next(name for name in FILES if name.endswith(".png"))
    (tmp_path / "set" / name).write_bytes(encoded(image("RGB").transpose(0)))
    with pytest.raises(FlowlitError, match="exists already"):
        resized(root, tmp_path / "new.zip")
    assert (tmp_path / "new.zip").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.zip", "set"]


@pytest.mark.parametrize("resolution", [0, -1, 8193, 10**9])
def test_resolutions_that_make_no_sense(resolution, tmp_path):
    with pytest.raises(FlowlitError, match=f"resolution is {resolution}; expected 1 to 8192 pixels"):
        resized(into_folder(tmp_path / "set", FILES), tmp_path / "new.zip", resolution)


def test_the_command(cli, tmp_path):
    root = into_folder(tmp_path / "set", FILES)
    done = cli("images", root, "--resolution", "8", "--into", tmp_path / "new.zip", "--background", "black")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"{tmp_path / 'new.zip'}: 4 images of 2 classes, 8×8",
        "left out: 1 .gif",
        "1 of 16 bits read as 8",
        "1 transparent over black",
        "1 turned upright (EXIF)",
        "warning: 2 images are smaller than 8 pixels, and were enlarged",
    ]
    assert len(ImageZip(str(tmp_path / "new.zip"), labels=True)) == 4


def test_greys_stay_grey(tmp_path):
    root = into_folder(tmp_path / "set", {"a.png": encoded(image("L")), "b.png": encoded(image("I;16"))})
    resized(root, tmp_path / "new.zip", 7)
    assert ImageZip(str(tmp_path / "new.zip")).grey
    png = content(tmp_path / "new.zip")["00000/img00000000.png"]
    assert Image.open(io.BytesIO(png)).mode == "L"


def test_a_box_is_the_mean_of_each_area(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    files = ImageFolder(str(into_folder(tmp_path / "set", {"a.png": encoded(pixels)})))
    card = write_resized(files, str(tmp_path / "box.zip"), Style(4, "crop", "white", "box"))
    means = pixels.reshape(4, 2, 4, 2).mean((1, 3))
    found = ImageZip(str(tmp_path / "box.zip"), channels=1)[0]["x1"][0].numpy()
    assert np.abs(found - means).max() <= 1  # Pillow rounds after rows and after columns
    assert "Box" in card["resampling"]


def test_a_folder_with_a_comma_in_its_name_is_one_source(tmp_path):
    root = into_folder(tmp_path / "cats, and/dogs, too", {"a.png": encoded(noise(8, 8, 3))})
    assert resized(root, tmp_path / "new.zip")["source"] == "dogs, too"


def test_patches_are_the_squares_of_an_image_in_its_own_size(tmp_path):
    pixels = {"b/a.png": noise(17, 25, 3), "c/b.png": noise(8, 16, 3)}
    root = into_folder(tmp_path / "set", {name: encoded(array) for name, array in pixels.items()})
    card = resized(root, tmp_path / "new.zip", 8, "patches")
    images = ImageZip(str(tmp_path / "new.zip"), resolution=8, labels=True)
    assert card["count"] == len(images) == 8 and card["enlarged"] == 0 and card["resampling"] == "none"
    assert [int(images[i]["cond"]["label"]) for i in range(8)] == [0] * 6 + [1] * 2
    first = [pixels["b/a.png"][y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8, 16)]
    for expected, i in zip(
        [*first, pixels["c/b.png"][:, :8], pixels["c/b.png"][:, 8:]], range(8), strict=True
    ):
        np.testing.assert_array_equal(images[i]["x1"].permute(1, 2, 0).numpy(), expected)
    assert resized(root, tmp_path / "new.zip", 8, "patches") == card  # the same zip may stay


def test_an_image_smaller_than_a_patch_is_refused(tmp_path):
    root = into_folder(tmp_path / "set", {"a.png": encoded(noise(9, 9, 3)), "b.png": encoded(noise(9, 7, 3))})
    with pytest.raises(FlowlitError, match=r"b\.png is not .*7×9 pixels are fewer than a patch of 8×8"):
        resized(root, tmp_path / "new.zip", 8, "patches")
    assert not (tmp_path / "new.zip").exists()


def test_images_of_one_name_are_refused(tmp_path):
    picture = noise(8, 8, 3)
    root = into_folder(tmp_path / "set", {"a.png": encoded(picture), "a.bmp": encoded(picture, "BMP")})
    with pytest.raises(FlowlitError, match=r"a\.bmp and .*a\.png would both become a/0000\.png"):
        resized(root, tmp_path / "new.zip", 8, "patches")
    assert not (tmp_path / "new.zip").exists()
