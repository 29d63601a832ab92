"""Hostile folders and zips of images: broken, disguised, huge, endless, and unlike each other."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

from pictures import chunk, encoded, giant, image, into_folder, into_zip, png
from PIL import Image

from flowlit.couplings.store.foreign import SeededZip
from flowlit.data import ImageFolder, ImageZip
from flowlit.data.resizing import Style, write_resized

from .row import Row, command

GOOD = encoded(image("RGB"))
FILES = {
    "png": GOOD,
    "jpg": encoded(image("RGB"), "JPEG"),
    "jpeg": encoded(image("RGB"), "JPEG", progressive=True),
    "bmp": encoded(image("RGB"), "BMP"),
    "webp": encoded(image("RGB"), "WEBP"),
}
CUT = {
    f"a {suffix} cut off {where}": (suffix, data[: int(len(data) * share)])
    for suffix, data in FILES.items()
    for where, share in (("early", 0.1), ("in the middle", 0.5), ("late", 0.9))
}
LONG_TEXT = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20)))
DISGUISED = {
    "nothing": b"",
    "one byte": b"\x89",
    "text": b"no image at all\n" * 10,
    "a page of errors": b"<!DOCTYPE html><html><body>404</body></html>",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "a PDF": b"%PDF-1.7\n",
    "an archive": b"PK\x05\x06" + bytes(18),
    "a program": b"\x7fELF" + bytes(60),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "an array": b"\x93NUMPY\x01\x00v\x00",
    "an icon": encoded(image("RGB"), "ICO"),
    "zeros": bytes(1000),
    "a pointer of git": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "real numbers": encoded(image("F"), "TIFF"),
    "32 bits": encoded(image("I"), "TIFF"),
    "400 million pixels": giant(),
    "177 million pixels of grey and alpha": png(13_300, 13_300, 8, 4, b""),
    "8192 times 8193 pixels": giant(8192, 8193),
    "no pixels": png(0, 0, 8, 0, b""),
    "no width": png(0, 5, 8, 0, b""),
    "negative height": FILES["bmp"].replace(struct.pack("<ii", 7, 9), struct.pack("<ii", 7, -(1 << 30))),
    "17 bits": png(1, 1, 17, 0, bytes(3)),
    "an unknown colour": png(1, 1, 8, 5, bytes(3)),
    "text that unpacks to 100 MB": png(1, 1, 8, 0, b"\0", more=LONG_TEXT),
    "a wrong checksum": GOOD[:-14] + bytes([GOOD[-14] ^ 1]) + GOOD[-13:],
    "one clear colour of 16 bits": png(1, 1, 16, 2, bytes(6), clear=bytes(6)),
}


def _folder(files, **arguments):
    return lambda folder: len(ImageFolder(into_folder(folder / "set", files), **arguments))


def _zip(files, **arguments):
    return lambda folder: len(ImageZip(into_zip(folder / "set.zip", files), **arguments))


def _seeded(files):
    return lambda folder: SeededZip(Path(into_zip(folder / "pairs.zip", files)))


MANNERS = {"folder": _folder, "zip": _zip}
BROKEN = {**CUT, **{name: ("png", data) for name, data in DISGUISED.items()}}
ROWS = [
    Row(
        f"images: {name} in a {kind}",
        make({"0.png": GOOD, f"x.{suffix}": data}),
        (f"x.{suffix} is not a readable",),
    )
    for name, (suffix, data) in BROKEN.items()
    for kind, make in MANNERS.items()
]
ROWS += [
    Row(
        f"images: {name} under the name of a JPEG",
        _folder({"x.JPG": data}),
        ("x.JPG is not a readable image",),
    )
    for name, data in DISGUISED.items()
]
ROWS += [
    Row(
        f"images: pairs to import with {name}",
        _seeded({"000001.png": data}),
        ("000001.png is not a readable",),
    )
    for name, data in DISGUISED.items()
]


# images unlike each other


def _sized(*sizes):
    return {f"{i}.png": encoded(Image.new("L", size)) for i, size in enumerate(sizes)}


EIGHT = (8, 8)
UNLIKE = {
    "one is higher": (
        _sized(EIGHT, EIGHT, (8, 10)),
        {},
        ("2.png is 8×10 pixels", "0.png 8×8", "flowlit images"),
    ),
    "the first is wider": (_sized((9, 8), EIGHT, EIGHT), {}, ("0.png is 9×8 pixels", "1.png 8×8")),
    "all differ": (_sized((1, 1), (2, 2), (3, 3)), {}, ("2 of 3 images are of another size",)),
    "one of another resolution": (_sized(EIGHT, (4, 4)), {"resolution": 8}, ("1.png is 4×4", "expected 8×8")),
    "all of another resolution": (_sized(EIGHT, EIGHT), {"resolution": 32}, ("expected 32×32", "2 of 2")),
    "rectangles for a square": (_sized((8, 4)), {"resolution": 8}, ("8×4 pixels, expected 8×8",)),
}
ROWS += [
    Row(f"images: {name} in a {kind}", make(files, **arguments), words)
    for name, (files, arguments, words) in UNLIKE.items()
    for kind, make in MANNERS.items()
]

OTHERS = {
    "a.gif": b"",
    "b.gif": b"",
    "c.tif": b"",
    "notes.txt": b"",
    ".d.png": GOOD,
    "__MACOSX/._a.png": GOOD,
}
EMPTY = {
    "no file": ({}, ()),
    "other files alone": (OTHERS, ("2 .gif", "1 .tif", "2 hidden")),
    "arrays": ({"x.npy": b"", "y.npz": b""}, ("1 .npy", "1 .npz")),
    "shadows of macOS alone": ({"._a.png": GOOD, ".DS_Store": b""}, ("2 hidden",)),
    "checkpoints of notebooks alone": ({".ipynb_checkpoints/a.png": GOOD}, ("1 hidden",)),
}
ROWS += [
    Row(f"images: {name} in a {kind}", make(files), ("holds no images", *words))
    for name, (files, words) in EMPTY.items()
    for kind, make in MANNERS.items()
]


# folders


def _in_folder(prepare, root="set"):
    """Attempt to open a folder that ``prepare(folder)`` has made something in."""

    def attempt(folder):
        (folder / "set").mkdir()
        (folder / "set/good.png").write_bytes(GOOD)
        prepare(folder / "set")
        return len(ImageFolder(str(folder / root)))

    return attempt


FOLDERS = {
    "a pipe": (lambda at: os.mkfifo(at / "x.png"), ("x.png is a pipe",)),
    "a device": (lambda at: os.symlink("/dev/zero", at / "x.png"), ("x.png is a pipe, socket or device",)),
    "a link to nothing": (lambda at: os.symlink("gone", at / "x.png"), ("x.png is a link to something",)),
    "a link to itself": (lambda at: os.symlink("x.png", at / "x.png"), ("x.png is a link to something",)),
    "a loop": (lambda at: os.symlink(".", at / "x"), ("a loop of links",)),
    "a long loop": (lambda at: ((at / "a/b").mkdir(parents=True), os.symlink(at, at / "a/b/c")), ("a loop",)),
    "a folder by two names": (
        lambda at: ((at / "a").mkdir(), os.symlink("a", at / "b")),
        ("are one folder",),
    ),
    "a pipe in a class": (lambda at: ((at / "a").mkdir(), os.mkfifo(at / "a/x.jpg")), ("x.jpg is a pipe",)),
}
ROWS += [
    Row(f"images: {name} in a folder", _in_folder(make), words) for name, (make, words) in FOLDERS.items()
]
ROWS += [
    Row(
        "images: a folder that does not exist",
        lambda at: len(ImageFolder(str(at / "no"))),
        ("does not exist",),
    ),
    Row("images: a file for a folder", _in_folder(lambda at: None, "set/good.png"), ("ImageZip",)),
    Row(
        "images: a pipe for a folder",
        _in_folder(lambda at: os.mkfifo(at / "p"), "set/p"),
        ("does not exist",),
    ),
    Row("images: a name with NUL", lambda at: len(ImageFolder(f"{at}\0")), ("does not exist",)),
    Row("images: labels without folders", _folder({"a.png": GOOD}, labels=True), ("one sub-folder a class",)),
]


def _classes(folder):
    (folder / "set").mkdir()
    os.symlink("gone", folder / "set/cat")
    return ImageFolder(into_folder(folder / "set", {"dog/a.png": GOOD}), labels=True).classes


ROWS += [Row("images: a class that is a link to nothing", _classes, ("cat is a link to",))]


# zips


def _content(change, files={"a.png": GOOD, "b.png": GOOD}, **options):
    """Attempt to open a zip whose bytes were changed."""

    def attempt(folder):
        path = Path(into_zip(folder / "set.zip", files, **options))
        path.write_bytes(change(bytearray(path.read_bytes())))
        return len(ImageZip(str(path)))

    return attempt


def _set(offset, value, place=b"PK\x01\x02"):
    """Change two or four bytes in each entry of the directory, or of what begins with ``place``."""

    def change(data):
        start = data.find(place)
        while start >= 0:
            data[start + offset : start + offset + len(value)] = value
            start = data.find(place, start + 4)
        return data

    return change


def _far(place):
    """Change the places of all files to one of 64 bits."""

    def attempt(folder):
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            archive.writestr("a.png", GOOD)
            archive.filelist[0].header_offset = place
        return len(ImageZip(str(folder / "set.zip")))

    return attempt


def _twice(folder):
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("a.png", GOOD)
        archive.infolist()[0].filename = "b.png"
        archive.NameToInfo.clear()
        archive.writestr("a.png", GOOD)
        archive.infolist()[0].filename = "a.png"
    return len(ImageZip(str(folder / "set.zip")))


def _at(prepare, name="set.zip"):
    def attempt(folder):
        prepare(folder)
        return len(ImageZip(str(folder / name)))

    return attempt


ZIPS = {
    "encrypted": (_content(_set(8, b"\1\0")), ("a.png is encrypted",)),
    "of an unknown method": (_content(_set(10, b"\x63\0")), ("a.png",)),
    "of 4 GB unpacked": (_content(_set(24, b"\xfe\xff\xff\xff")), ("4,294,967,294 bytes unpacked",)),
    "of a size that is too small": (
        _content(_set(24, b"\5\0\0\0")),
        ("2 of 2 images are not readable", "a.png ("),
    ),
    "of wrong checksums": (_content(_set(16, b"abcd")), ("2 of 2 images", "Bad CRC-32")),
    "of wrong places": (_content(_set(42, b"\x07\0\0\0")), ("2 of 2 images are not readable",)),
    **{
        f"of the place {place}": (_far(place), ("set.zip", "a.png"))
        for place in (1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
    },
    "of places beyond its end": (_content(_set(42, b"\0\0\0\x7f")), ("set.zip",)),
    "of other names inside": (
        _content(_set(30, b"z", b"PK\3\4")),
        ("2 of 2 images are not readable", "differ"),
    ),
    "a bomb": (_content(lambda data: data, {"a.png": bytes(64 << 20)}), ("a.png is not a readable image",)),
    "of one name twice": (_twice, ("a.png occurs twice",)),
    "cut off": (_content(lambda data: data[:-30]), ("set.zip cannot be read", "fetch it again")),
    "without a beginning": (_content(lambda data: data[60:]), ("not a readable image",)),
    "that is text": (_content(lambda data: b"no zip"), ("set.zip cannot be read",)),
    "that is empty": (_content(lambda data: b""), ("set.zip cannot be read",)),
    "that is not there": (_at(lambda folder: None), ("set.zip", "does not exist")),
    "that is a folder": (_at(lambda folder: (folder / "set.zip").mkdir()), ("is a folder",)),
    "that is a pipe": (_at(lambda folder: os.mkfifo(folder / "set.zip")), ("is a pipe",)),
    "that is a device": (
        _at(lambda folder: os.symlink("/dev/zero", folder / "set.zip")),
        ("pipe or device",),
    ),
    "that is a link to nothing": (
        _at(lambda folder: os.symlink("no", folder / "set.zip")),
        ("does not exist",),
    ),
    "of names without an end": (_content(_set(28, b"\xff\xff")), ("set.zip holds no images",)),
}
ROWS += [Row(f"images: a zip {name}", attempt, words) for name, (attempt, words) in ZIPS.items()]


# arguments

ROWS += [
    Row(
        f"images: background {colour!r} of {kind.__name__}",
        lambda folder, kind=kind, colour=colour: kind("x", background=colour),
        ("background", "expected a colour"),
    )
    for kind in (ImageFolder, ImageZip)
    for colour in ("", "no colour", "#12", "rgb(1,2)", "white black", "#ggg")
]


def _resized(files=None, resolution=8, into="new.zip", fit="crop", background="white", there=False):
    """Attempt to crop and resize."""

    def attempt(folder):
        images = ImageFolder(into_folder(folder / "set", files or {"a.png": GOOD}))
        if there:
            (folder / into).write_bytes(b"precious")
        return write_resized(images, str(folder / into), Style(resolution, fit, background))

    return attempt


RESIZED = {
    "to 0 pixels": ({"resolution": 0}, ("resolution is 0",)),
    "to -1 pixels": ({"resolution": -1}, ("resolution is -1",)),
    "to a million pixels": ({"resolution": 10**6}, ("expected 1 to 8192",)),
    "into what is no zip": ({"into": "new.tar"}, ("ends in .zip",)),
    "into a name without ending": ({"into": "new"}, ("ends in .zip",)),
    "over a file": ({"there": True}, ("exists already",)),
    "over no colour": ({"background": "colourless"}, ("background", "expected a colour")),
    "a broken image": ({"files": {"a.png": GOOD, "b.png": b"x"}}, ("b.png is not a readable image",)),
    "nothing but broken images": ({"files": {"a.png": b"", "b.png": b"x"}}, ("2 of 2 images",)),
    "a giant": ({"files": {"a.png": giant()}}, ("too large",)),
    "a smaller giant": ({"files": {"a.png": giant(9000, 9000)}}, ("too large", "9000×9000")),
    "no images": ({"files": {"a.gif": b""}}, ("holds no images", "1 .gif")),
}
ROWS += [
    Row(f"images: resize {name}", _resized(**arguments), words)
    for name, (arguments, words) in RESIZED.items()
]

IMAGES = ("images", "{}/set", "--resolution")
COMMANDS = {
    "a folder that is not there": ((*IMAGES, 8, "--into", "{}/new.zip"), ("set", "does not exist")),
    "neither folder nor zip": ((*IMAGES, 8, "--into", "{}/new.zip"), ("expected a folder, a zip",)),
    "no resolution": (("images", "{}", "--into", "{}/new.zip"), ("--resolution",)),
    "a resolution in words": ((*IMAGES, "small", "--into", "{}/new.zip"), ("--resolution",)),
    "half a pixel": ((*IMAGES, 0.5, "--into", "{}/new.zip"), ("--resolution",)),
    "another fit": ((*IMAGES, 8, "--into", "{}/new.zip", "--fit", "stretch"), ("--fit",)),
    "nothing to write into": ((*IMAGES, 8), ("--into",)),
}
ROWS += [Row(f"images: {name}", command(*words), expected) for name, (words, expected) in COMMANDS.items()]


def _pipe_later(folder):
    images = ImageFolder(into_folder(folder / "set", {"a.png": GOOD, "b.png": GOOD}))
    assert len(images) == 2
    (folder / "set/b.png").unlink()
    os.mkfifo(folder / "set/b.png")
    return images[1]


def _zip_twice(folder):
    path = into_zip(folder / "set.zip", {"a.png": GOOD})
    os.symlink(path, folder / "link.zip")
    return [path, str(folder / "link.zip")]


ROWS += [
    Row("images: a zip twice", lambda at: ImageZip(_zip_twice(at)[:1] * 2).index, ("given twice",)),
    Row("images: a zip and a link to it", lambda at: ImageZip(_zip_twice(at)).index, ("given twice",)),
    Row("images: a folder for a zip", lambda at: ImageZip(str(at)).index, ("data.ImageFolder",)),
    Row("images: a pipe in the place of an image", _pipe_later, ("is not a readable image",)),
]
