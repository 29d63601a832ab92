"""Every kind of image file becomes the pixels that a viewer shows, or one error."""

import io

import numpy as np
import pytest
from hostile_bytes import bounded, ends_well, mutated
from hypothesis import given
from pictures import ALPHA, DEEP, RGB, encoded, image, noise, png, turned
from PIL import Image

from flowlit.data.decode import OtherSize, UnreadableImage, check_colour, load
from flowlit.errors import FlowlitError


def pixels(data, channels=3, background="white"):
    return load(io.BytesIO(data)).array(channels, background)


def over(colours, alpha, background):
    """Alpha compositing in real numbers."""
    share = alpha[..., None] / 255
    return colours * share + np.asarray(background) * (1 - share)


# plain images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "format"),
    [(m, f) for m in ("1", "L", "RGB") for f in ("PNG", "BMP", "TIFF")]
    + [("P", "PNG"), ("P", "BMP"), ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")]
    + [("RGB", "WEBP"), ("YCbCr", "TIFF")],
)
def test_plain_images_are_what_pillow_converts(mode, format, channels):
    data = encoded(image(mode), format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB"))
    decoded = load(io.BytesIO(data))
    np.testing.assert_array_equal(decoded.array(channels, "white").squeeze(), expected)
    assert (decoded.format, decoded.mode, decoded.changes) == (format, Image.open(io.BytesIO(data)).mode, ())


def test_lab_becomes_rgb_and_grey():
    data = encoded(image("LAB"), "TIFF")
    np.testing.assert_array_equal(pixels(data), np.asarray(image("LAB").convert("RGB")))
    expected = np.asarray(Image.fromarray(pixels(data)).convert("L"))
    np.testing.assert_array_equal(pixels(data, 1)[..., 0], expected)


# more than eight bits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(format, channels):
    decoded = load(io.BytesIO(encoded(image("I;16"), format)))
    for channel in decoded.array(channels, "white").transpose(2, 0, 1):
        np.testing.assert_array_equal(channel, DEEP >> 8)
    assert decoded.changes == ("16 bits",) and decoded.mode == "I;16"


def test_big_endian_sixteen_bits():
    data = encoded(Image.frombytes("I;16B", (7, 9), DEEP.astype(">u2").tobytes()), "TIFF")
    np.testing.assert_array_equal(pixels(data, 1)[..., 0], DEEP >> 8)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_colours_and_alpha(colour, channels):
    values = noise(9, 7, channels, most=65535, dtype=np.uint16)
    decoded = load(io.BytesIO(png(7, 9, 16, colour, values.astype(">u2").tobytes())))
    upper = (values >> 8).astype(np.uint8)
    assert "16 bits" in decoded.changes
    if colour == 2:
        np.testing.assert_array_equal(decoded.array(3, "white"), upper)
    else:
        colours = upper[..., :-1] * np.ones(3)
        expected = over(colours, upper[..., -1], (255, 255, 255))
        np.testing.assert_allclose(decoded.array(3, "white"), expected, atol=1)


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_values_without_a_range_are_refused(mode, channels):
    with pytest.raises(UnreadableImage, match=f"mode {mode}: its values have no known range"):
        pixels(encoded(image(mode), "TIFF"), channels)


# transparency


@pytest.mark.parametrize(
    ("background", "rgb"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("black", (0, 0, 0))]
)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_show_the_background(format, background, rgb):
    data = encoded(image("RGBA"), format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    np.testing.assert_allclose(pixels(data, 3, background), over(RGB, ALPHA, rgb), atol=1)
    assert load(io.BytesIO(data)).changes == ("transparent",)


def test_transparent_grey():
    grey = np.asarray(image("RGB").convert("L"))
    picture = Image.fromarray(grey)
    picture.putalpha(Image.fromarray(ALPHA))
    expected = over(grey[..., None], ALPHA, [255])
    np.testing.assert_allclose(pixels(encoded(picture), 1), expected, atol=1)


def test_opaque_alpha_changes_nothing():
    picture = image("RGB")
    picture.putalpha(255)
    decoded = load(io.BytesIO(encoded(picture)))
    np.testing.assert_array_equal(decoded.array(3, "red"), RGB)
    assert decoded.changes == ()


@pytest.mark.parametrize("several", [False, True], ids=["one entry", "alphas"])
def test_transparent_entries_of_a_palette(several):
    palette = Image.fromarray(noise(4, 4, most=3), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    data = encoded(palette, transparency=bytes([255, 0, 0, 255]) if several else 1)
    index = noise(4, 4, most=3)
    shown = np.array([[255, 0, 0], [255, 255, 255], [255, 255, 255] if several else [0, 0, 255], [9, 9, 9]])
    np.testing.assert_array_equal(pixels(data), shown[index])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey(bits):
    values = np.arange(16).reshape(2, 8) % min(2**bits, 8)
    rows = {16: values.astype(">u2"), 8: values.astype(np.uint8)}.get(bits)
    if rows is None:
        rows = np.packbits((values[..., None] >> np.arange(bits)[::-1] & 1).reshape(2, -1), axis=1)
    data = png(8, 2, bits, 0, rows.tobytes(), clear=b"\0\1")
    shown = values >> 8 if bits == 16 else values * 255 // (2**bits - 1)
    np.testing.assert_array_equal(pixels(data, 1)[..., 0], np.where(values == 1, 255, shown))


def test_one_transparent_colour():
    data = png(3, 1, 8, 2, bytes([1, 2, 3, 9, 9, 9, 1, 2, 4]), clear=bytes([0, 1, 0, 2, 0, 3]))
    assert pixels(data).tolist() == [[[255, 255, 255], [9, 9, 9], [1, 2, 4]]]


def test_one_transparent_colour_of_sixteen_bits_is_refused():
    with pytest.raises(UnreadableImage, match="save it with an alpha channel"):
        pixels(png(1, 1, 16, 2, bytes(6), clear=bytes(6)))


@pytest.mark.parametrize("colour", ["", "nothing", "#12", "rgb(1)", None, 3, "white; rm"])
def test_what_is_no_colour(colour):
    with pytest.raises(FlowlitError, match="expected a colour"):
        check_colour(colour)


# orientation


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(orientation, format):
    seen = np.zeros((16, 24), np.uint8)
    seen[:8, :8] = 255  # the upper left corner of what was photographed
    held = {
        1: seen,
        2: seen[:, ::-1],
        3: seen[::-1, ::-1],
        4: seen[::-1],
        5: seen.T,
        6: np.rot90(seen),
        7: np.rot90(seen, 2).T,
        8: np.rot90(seen, -1),
    }[orientation]
    decoded = load(io.BytesIO(turned(np.ascontiguousarray(held), orientation, format)))
    assert decoded.image.size == (24, 16)
    np.testing.assert_allclose(decoded.array(1, "white")[..., 0], seen, atol=3)
    by_pillow = orientation == 1 or format == "TIFF"  # which it turns itself
    assert decoded.changes == (() if by_pillow else ("turned",))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing(exif):
    np.testing.assert_array_equal(pixels(encoded(RGB, exif=exif)), RGB)


# several frames


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF"])
def test_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    decoded = load(io.BytesIO(data))
    assert decoded.array(3, "white")[0, 0].tolist() == [255, 0, 0] and decoded.changes == ("animated",)


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_other_frames_cost_nothing(format):
    frames = [Image.fromarray(noise(32, 32, 3) + i) for i in range(200)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    file = io.BytesIO(data)
    read = []
    file.read = lambda size=-1: read.append(part := io.BytesIO.read(file, size)) or part
    load(file)
    assert sum(map(len, read)) < len(data) / 4


def test_previews_of_a_camera_are_no_animation():
    frames = [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 4), "red")]
    decoded = load(io.BytesIO(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])))
    assert (decoded.format, decoded.changes) == ("JPEG", ())


# size


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(8192, 8193), (13_300, 13_300), (1, 1 << 27)])
def test_a_small_file_of_many_pixels_is_not_unpacked(width, height):
    message = f"too large: {width}×{height}, expected at most 67,108,864 pixels"
    with pytest.raises(UnreadableImage, match=message):
        load(io.BytesIO(png(width, height, 8, 4, b"")))


def test_another_size_than_expected_is_not_unpacked():
    broken = encoded(RGB)[:60]
    with pytest.raises(OtherSize, match="it is 7×9 pixels"):
        load(io.BytesIO(broken), 7)
    assert load(io.BytesIO(encoded(RGB[:7])), 7).image.size == (7, 7)


# damage

FILES = {
    "png": encoded(RGB),
    "palette": encoded(image("P")),
    "jpeg": encoded(RGB, "JPEG"),
    "progressive": encoded(RGB, "JPEG", progressive=True),
    "cmyk": encoded(image("CMYK"), "JPEG"),
    "bmp": encoded(RGB, "BMP"),
    "webp": encoded(RGB, "WEBP"),
    "lossless": encoded(image("RGBA"), "WEBP", lossless=True),
    "gif": encoded(image("P"), "GIF"),
    "tiff": encoded(RGB, "TIFF"),
    "upright": turned(RGB, 6),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused_or_whole(name):
    whole = pixels(FILES[name])
    for end in range(len(FILES[name])):
        try:
            part = pixels(FILES[name][:end])
        except UnreadableImage as error:
            assert str(error)
        else:
            np.testing.assert_array_equal(part, whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_any_bytes_are_an_image_or_one_error(name):
    @given(mutated(FILES[name]))
    @bounded
    def check(data):
        def attempt():
            try:
                return pixels(data)
            except UnreadableImage as error:
                raise FlowlitError(str(error)) from error

        ends_well(attempt)

    check()
