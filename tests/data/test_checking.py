"""All images of a set are looked at before the first is used, once."""

import os
import zipfile
from pathlib import Path

import pytest
from hostile_bytes import bounded, ends_well, mutated
from hypothesis import given
from pictures import encoded, giant, image, into_folder, into_zip, png, turned
from PIL import Image

from flowlit.data import ImageFolder, ImageZip, checking, long_work
from flowlit.errors import FlowlitError

GOOD = encoded(Image.new("RGB", (7, 9)))
BROKEN = {
    "cut.png": GOOD[:-20],
    "sum.png": GOOD[:-14] + bytes([GOOD[-14] ^ 1]) + GOOD[-13:],  # of the checksum of its pixels
    "cut.jpg": encoded(image("RGB"), "JPEG")[:-30],
    "cut.bmp": encoded(image("RGB"), "BMP")[:-30],
    "cut.webp": encoded(image("RGB"), "WEBP")[:-30],
    "text.png": b"<html>404</html>",
    "empty.jpg": b"",
    "giant.png": giant(),
    "float.png": encoded(image("F"), "TIFF"),
}


@pytest.fixture(params=["folder", "zip"])
def made(request, tmp_path):
    """Make a set of files, in a folder or a zip."""

    def make(files, **options):
        if request.param == "folder":
            return ImageFolder(into_folder(tmp_path / "set", files), **options)
        return ImageZip(into_zip(tmp_path / "set.zip", files), **options)

    return make


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_found_before_the_first_is_used(name, made):
    with pytest.raises(FlowlitError, match=f"{name} is not a readable image"):
        len(made({"0.png": GOOD, name: BROKEN[name]}))


def test_broken_images_are_counted(made):
    files = {f"{i}.png": GOOD for i in range(5)} | {f"x{i}.png": b"broken" for i in range(5)}
    message = r"5 of 10 images are not readable: .*x0.png \(.*x1.png \(.*x2.png \(.* and 2 more; replace or"
    with pytest.raises(FlowlitError, match=message):
        len(made(files))


def test_sizes_differ(made):
    files = {f"{i:03}.png": encoded(Image.new("L", (8, 10 if i == 41 else 8))) for i in range(50)}
    with pytest.raises(FlowlitError, match=r"041.png is 8×10 pixels, .*000.png 8×8; .*flowlit images .*set"):
        len(made(files))


def test_the_size_of_most_is_the_right_one(made):
    files = {f"{i}.png": encoded(Image.new("L", (8, 10 if i == 0 else 8))) for i in range(9)}
    with pytest.raises(FlowlitError, match=r"0.png is 8×10 pixels, .*1.png 8×8; resize"):
        len(made(files))


def test_all_are_of_another_size_than_expected(made):
    files = {f"{i}.png": encoded(Image.new("L", (8, 8))) for i in range(9)}
    with pytest.raises(
        FlowlitError, match=r"0.png is 8×8 pixels, expected 16×16 \(9 of 9 images are of another size\)"
    ):
        len(made(files, resolution=16))


def test_sizes_are_those_of_photos_held_upright(made):
    files = {"a.jpg": turned(image("RGB"), 1), "b.jpg": turned(image("RGB").transpose(2), 6)}
    assert len(made(files)) == 2


def test_rectangular_images_are_read(made):
    assert made({"a.png": GOOD})[0]["x1"].shape == (3, 9, 7)


@pytest.mark.parametrize("channels", [0, 2, 4, -1, None])
@pytest.mark.parametrize("kind", [ImageFolder, ImageZip])
def test_channels_are_one_or_three(kind, channels):
    with pytest.raises(FlowlitError, match=f"channels is {channels}; expected 1 or 3"):
        kind("nowhere", channels=channels)


def test_a_summary_has_what_was_left_out_and_changed(made):
    files = {
        "a.png": encoded(image("RGBA")),
        "b.png": encoded(image("I;16")),
        "c.jpg": turned(image("RGB").transpose(2), 6),
        "d.gif": b"",
        ".e.png": b"",
    }
    images = made(files, background="#888888")
    text = images.summary()
    assert text.endswith(
        "3 images; left out: 1 .gif, 1 hidden; 1 transparent over #888888, 1 turned upright (EXIF), "
        "1 of 16 bits read as 8"
    )
    assert images.facts() == {
        "formats": {"PNG": 2, "JPEG": 1},
        "modes": {"RGBA": 1, "I;16": 1, "RGB": 1},
        "changes": {"transparent": 1, "16 bits": 1, "turned": 1},
        "background": "#888888",
    }


def test_plain_images_have_no_summary(made):
    assert made({"a.png": GOOD, "b.jpg": encoded(image("RGB"), "JPEG")}).summary() == ""


@pytest.mark.parametrize(
    ("mode", "grey"), [("L", True), ("1", True), ("LA", True), ("RGB", False), ("P", False)]
)
def test_grey_sets(mode, grey, made):
    assert made({"a.png": encoded(image("L")), "b.png": encoded(image(mode))}).grey == grey


def test_the_background_is_part_of_the_fingerprint_where_it_is_seen(made):
    for file, count in ((GOOD, 1), (encoded(image("RGBA")), 2)):
        images = made({"a.png": file})
        others = [type(images)(images.source, background=colour) for colour in ("white", "red", "red")]
        assert len({other.fingerprint for other in others}) == count


# the record of sets that take long


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """Count images that are decoded; any set is slow, and records are written below the test's folder."""
    names = []
    examine = checking.examine
    monkeypatch.setattr(checking, "examine", lambda *args: names.append(1) or examine(*args))
    monkeypatch.setattr(long_work, "SLOW", 0)
    monkeypatch.setattr(checking._KEPT, "known", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def count(images):
        names.clear()
        checking._KEPT.known.clear()  # as in another process
        len(images)
        return len(names)

    return count


def test_a_set_that_takes_long_is_decoded_once(decoded, made, tmp_path):
    files = {"a.png": GOOD, "b.png": encoded(image("RGBA"))}
    assert decoded(made(files)) == 2
    images = made(files)
    place = Path(images.source)
    for path in [place] if place.is_file() else place.iterdir():
        os.utime(path, ns=(1, 1))
    assert decoded(images) == 2  # of other times
    summary = images.summary()
    again = type(images)(images.source)
    assert decoded(again) == 0 and again.summary() == summary
    for path in [place] if place.is_file() else place.iterdir():
        os.utime(path, ns=(2, 2))
    assert decoded(type(images)(images.source)) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "flowlit-checked-images", "version": 2}'])
def test_a_damaged_record_is_made_again(content, decoded, made, tmp_path):
    images = made({"a.png": GOOD})
    assert decoded(images) == 1
    [record] = (tmp_path / "cache").rglob("*.json")
    record.write_bytes(content)
    assert decoded(type(images)(images.source)) == 1
    assert decoded(type(images)(images.source)) == 0


def test_a_cache_that_cannot_be_written_only_costs_time(decoded, made, tmp_path):
    (tmp_path / "cache").write_text("a file")
    images = made({"a.png": GOOD})
    assert decoded(images) == decoded(type(images)(images.source)) == 1


def test_broken_sets_have_no_record(decoded, made, tmp_path):
    images = made({"a.png": b"broken"})
    for _ in range(2):
        with pytest.raises(FlowlitError):
            decoded(images)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_sets_of_another_size_have_no_record(decoded, made, tmp_path):
    files = {"a.png": GOOD, "b.png": GOOD}
    for _ in range(2):
        with pytest.raises(FlowlitError, match=r"a.png is 7×9 pixels, expected 8×8 \(2 of 2"):
            decoded(made(files, resolution=8))
    assert not list((tmp_path / "cache").rglob("*.json"))
    assert decoded(made(files)) == 2
    with pytest.raises(FlowlitError, match=r"a.png is 7×9 pixels, expected 8×8 \(2 of 2"):
        decoded(made(files, resolution=8))


def test_one_image_of_another_size_is_refused_by_its_header(made):
    whole = encoded(Image.new("L", (8, 8)))
    with pytest.raises(FlowlitError, match=r"b.png is 20000×20000|b.png is not a readable image .*pixels"):
        len(made({"a.png": whole, "b.png": giant()}, resolution=8))
    with pytest.raises(FlowlitError, match=r"b.png is 8192×8193 pixels, expected 8×8"):
        len(made({"a.png": whole, "b.png": giant(8192, 8193)}, resolution=8))


def test_small_sets_leave_nothing_behind(made, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    len(made({"a.png": GOOD}))
    assert not (tmp_path / "cache").exists()


def test_a_png_with_text_that_unpacks_to_too_much(made):
    import zlib

    from pictures import chunk

    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)))
    with pytest.raises(FlowlitError, match=r"a.png is not a readable image"):
        len(made({"a.png": png(1, 1, 8, 0, b"\0", more=text)}))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"]
)
def test_any_bytes_are_a_zip_of_images_or_one_error(compression, tmp_path):
    files = {"a.png": GOOD, "b/c.jpg": encoded(image("RGB"), "JPEG"), "dataset.json": b'{"labels": null}'}
    path = Path(into_zip(tmp_path / "good.zip", files, compression))

    @given(mutated(path.read_bytes()))
    @bounded
    def check(data):
        (tmp_path / "any.zip").write_bytes(data)
        images = ImageZip(str(tmp_path / "any.zip"))
        ends_well(lambda: (len(images), images[0], images.fingerprint, images.summary()))

    check()
