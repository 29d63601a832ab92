"""Photographs come back with their bits, transparency, profile and EXIF, or as one error."""

import numpy as np
import pytest
import torch
from pictures import ALPHA, DEEP, ORIENTATION, RGB, encoded, giant, image, noise, png, turned
from PIL import Image, ImageCms

from flowlit.data.decode import UnreadableImage
from flowlit.data.photographs import Photograph, read_photograph, with_bled_colours, write_photograph

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def read(tmp_path, data, name="in.png"):
    (tmp_path / name).write_bytes(data)
    return read_photograph(tmp_path / name)


def again(tmp_path, photograph, **facts):
    write_photograph(tmp_path / "out.png", photograph, facts)
    return read_photograph(tmp_path / "out.png")


def whole(pixels, most=255):
    """Pixels (C, H, W) in [0, 1] as whole numbers (H, W, C)."""
    values = (pixels.double() * most).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(values, values.round(), atol=0.01)
    return values.round().astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_eight_bits_come_back(tmp_path, mode):
    picture = image(mode)
    photograph = read(tmp_path, encoded(picture))
    expected = np.asarray(picture.convert("LA" if mode in ("1", "L") else mode)).reshape(9, 7, -1)
    grey = mode in ("1", "L", "LA")
    assert photograph.pixels.shape == ((1 if grey else 3), 9, 7) and photograph.bits == 8
    np.testing.assert_array_equal(whole(photograph.pixels), expected[..., : 1 if grey else 3])
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(whole(photograph.alpha)[..., 0], ALPHA)
    else:
        assert photograph.alpha is None
    back = again(tmp_path, photograph)
    assert torch.equal(back.pixels, photograph.pixels)
    assert (back.alpha is None) == (photograph.alpha is None)
    assert Image.open(tmp_path / "out.png").mode == ("L" if mode == "1" else mode)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_come_back(tmp_path, colour, channels):
    values = noise(9, 7, channels, most=65535, dtype=np.uint16)
    photograph = read(tmp_path, png(7, 9, 16, colour, values.astype(">u2").tobytes()))
    grey = channels < 3
    assert photograph.bits == 16
    np.testing.assert_array_equal(whole(photograph.pixels, 65535), values[..., : 1 if grey else 3])
    if channels in (2, 4):
        np.testing.assert_array_equal(whole(photograph.alpha, 65535)[..., 0], values[..., -1])
    back = again(tmp_path, photograph._replace(icc=PROFILE), flowlit="{}")
    assert torch.equal(back.pixels, photograph.pixels) and back.bits == 16 and back.icc == PROFILE
    assert photograph.alpha is None or torch.equal(back.alpha, photograph.alpha)
    with Image.open(tmp_path / "out.png") as file:
        file.verify()  # checksums
    with Image.open(tmp_path / "out.png") as file:
        assert file.text == {"flowlit": "{}"}


def test_sixteen_bits_of_a_dark_image_are_not_eight(tmp_path):
    photograph = read(tmp_path, encoded(Image.fromarray(DEEP // 1024)))
    assert photograph.bits == 16 and photograph.pixels.max() < 0.001


def test_sixteen_bits_of_a_tiff(tmp_path):
    photograph = read(tmp_path, encoded(image("I;16"), "TIFF"), "in.tif")
    np.testing.assert_array_equal(whole(photograph.pixels, 65535)[..., 0], DEEP)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("deep", [False, True])
def test_photographs_stand_upright_once(tmp_path, orientation, deep):
    seen = np.zeros((16, 24), np.uint8)
    seen[:8, :8] = 255
    stored = {1: seen, 3: seen[::-1, ::-1], 6: np.rot90(seen), 7: np.rot90(seen, 2).T}[orientation]
    stored = np.ascontiguousarray(stored)
    picture = Image.fromarray(stored.astype(np.uint16) * 257) if deep else stored
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    photograph = read(tmp_path, turned(picture, orientation, "PNG"))
    assert photograph.bits == (16 if deep else 8) and photograph.size == "24×16"
    np.testing.assert_array_equal(whole(photograph.pixels)[..., 0], seen)
    assert again(tmp_path, photograph).size == "24×16"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_profile_and_exif_are_kept(tmp_path, format, bits):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "a camera"
    photograph = read(tmp_path, encoded(RGB, format, exif=exif, icc_profile=PROFILE))
    back = again(tmp_path, photograph._replace(bits=bits))
    assert back.icc == PROFILE
    with Image.open(tmp_path / "out.png") as file:
        assert dict(file.getexif()) == {0x010F: "a camera"}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_does_not_state_the_former_size(tmp_path, format):
    """Results are larger, and turned: the file's own width and height are in its header."""
    exif = Image.Exif()
    exif.update({0x0100: 7, 0x0101: 9, 0x010F: "a camera"})
    exif.get_ifd(0x8769).update({0xA002: 7, 0xA003: 9, 0x9003: "2026:11:30 12:00:00"})
    exif.get_ifd(0x8769)[0xA005] = {1: "R98", 0x1001: 7, 0x1002: 9}
    exif.get_ifd(0x8825)[1] = "N"
    again(tmp_path, read(tmp_path, encoded(RGB, format, exif=exif)))
    with Image.open(tmp_path / "out.png") as file:
        kept = file.getexif()
        assert {tag: value for tag, value in kept.items() if tag < 0x8000} == {0x010F: "a camera"}
        assert kept.get_ifd(0xA005) == {1: "R98"} and kept.get_ifd(0x8825) == {1: "N"}
        inside = kept.get_ifd(0x8769)
        assert inside.pop(0xA005) and inside == {0x9003: "2026:11:30 12:00:00"}


def test_values_are_clipped_and_rounded(tmp_path):
    values = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.3]).view(1, 1, 5)
    assert whole(again(tmp_path, Photograph(values)).pixels).flatten().tolist() == [0, 0, 1, 255, 255]


FRAMES = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
REFUSED = {
    "cmyk": (encoded(image("CMYK"), "JPEG"), "it has CMYK, the colours of print; save it in RGB"),
    "palette": (encoded(image("P")), "it has a palette; save it in RGB or grey"),
    "lab": (encoded(image("LAB"), "TIFF"), "it has mode LAB"),
    "animated": (encoded(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "several frames"),
    "gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "several frames|palette"),
    "numbers": (encoded(image("F"), "TIFF"), "no known range"),
    "giant": (giant(), "too large"),
    "text": (b"a text", "no image of a known format"),
    "cut": (encoded(RGB)[:-40], "."),
    "empty": (b"", "."),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_other_files_are_refused_in_words(tmp_path, name):
    data, expected = REFUSED[name]
    with pytest.raises(UnreadableImage, match=expected):
        read(tmp_path, data)


def test_files_that_are_none_are_refused(tmp_path):
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(UnreadableImage):
            read_photograph(path)


def test_no_black_rim_beside_what_is_transparent():
    """A red disc in black that is not seen: enlarged, it is red up to its rim."""
    place = torch.arange(16.0) - 7.5
    alpha = ((place[:, None] ** 2 + place**2) < 25).float()[None]
    colours = torch.cat([alpha, 0 * alpha, 0 * alpha])
    bled = with_bled_colours(Photograph(colours, alpha))
    near = torch.nn.functional.max_pool2d(alpha[None], 11, 1, 5)[0]
    assert (bled[0] >= near[0] * 0.999).all() and bled[1:].max() == 0
    assert torch.equal(bled * alpha, colours)
    assert with_bled_colours(Photograph(colours)) is colours


def test_what_is_half_seen_keeps_its_colours():
    pixels = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(with_bled_colours(Photograph(pixels, torch.full((1, 6, 6), 0.01))), pixels)
    unseen = with_bled_colours(Photograph(pixels, torch.zeros(1, 6, 6)))
    assert unseen.isfinite().all()


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_photograph(tmp_path / "out.png", Photograph(torch.zeros(1, 2, 2)))
    assert not list(tmp_path.iterdir())
