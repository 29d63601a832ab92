"""Hostile lists of labels and names of classes, in zips and for folders."""

import json

import labelled
import tiny
from commandline import in_process

from flowlit.couplings import SeededNoise
from flowlit.data import ImageFolder, ImageZip
from flowlit.data.labels import names_in

from .row import Row

TWO = [["a.png", 0], ["b.png", 1]]


def _zip(labels=TWO, names=("a.png", "b.png"), named=None, text=None, **arguments):
    def attempt(folder):
        path = labelled.archive(folder / "x.zip", labels, names, named, text)
        return len(ImageZip(str(path), **{"labels": True, "channels": 1, **arguments}).index)

    return attempt


NO_CLASSES = (
    -1,
    1.9,
    1.0,
    -0.5,
    True,
    False,
    "1",
    "cat",
    "",
    None,
    [0],
    [0.0, 1.0],
    {},
    2**31,
    10**30,
    1e300,
)

LABELS = [
    Row(
        f"dataset.json: the label {label!r:.30}",
        _zip([["a.png", 0], ["b.png", label]]),
        ("x.zip:dataset.json", "b.png", "whole number from 0"),
    )
    for label in NO_CLASSES
]
LABELS += [
    Row(f"dataset.json: {name}", _zip(**arguments), ("x.zip", *words))
    for name, arguments, words in [
        ("an image twice", {"labels": [*TWO, ["a.png", 1]]}, ("names a.png twice",)),
        ("an image twice with one label", {"labels": [*TWO, ["a.png", 0]]}, ("names a.png twice",)),
        ("a label without image", {"labels": [*TWO, ["c.png", 1]]}, ("c.png", "does not hold")),
        ("an image without label", {"labels": TWO[:1]}, ("no label for b.png",)),
        (
            "three images without label",
            {"labels": TWO[:1], "names": ["a.png", "b.png", "c.png", "d.png"]},
            ("no label for b.png and 2 more",),
        ),
        ("no labels", {"labels": None}, ("has no labels",)),
        ("no list of labels", {"labels": {"a.png": 0, "b.png": 1}}, ("labels", "array")),
        ("labels without names", {"labels": [0, 1]}, ("labels[0]",)),
        ("three entries", {"labels": [["a.png", 0, 1]]}, ("labels[0]", "length 2")),
        ("a number as a name", {"labels": [[0, 0]]}, ("labels[0][0]", "str")),
        ("no such file", {"text": ""}, ("dataset.json is missing",)),
        ("blank", {"text": " "}, ("no list of labels",)),
        ("a list", {"text": "[]"}, ("object",)),
        ("a number", {"text": "3"}, ("object",)),
        ("null", {"text": "null"}, ("object",)),
        ("nothing in it", {"text": "{}"}, ("has no labels",)),
        ("torn", {"text": '{"labels": [["a.png", 0'}, ("no list of labels",)),
        ("trailing text", {"text": json.dumps({"labels": TWO}) + "x"}, ("no list of labels",)),
        ("keys twice", {"text": '{"labels": null, "labels": [["a.png", 0], ["b.png", 1]]}'}, ("twice",)),
        ("NaN", {"text": '{"labels": [["a.png", NaN], ["b.png", 0]]}'}, ("no list of labels",)),
        ("infinity", {"text": '{"labels": [["a.png", Infinity], ["b.png", 0]]}'}, ("no list of labels",)),
        ("no UTF-8", {"text": b'{"labels": [["\xff.png", 0]]}'}, ("no list of labels",)),
        ("UTF-16", {"text": json.dumps({"labels": TWO}).encode("utf-16")}, ("byte order mark",)),
        (
            "a byte order mark",
            {"text": b"\xef\xbb\xbf" + json.dumps({"labels": TWO}).encode()},
            ("byte order",),
        ),
        ("deep nesting", {"text": '{"labels": ' + "[" * 100_000 + "]" * 100_000 + "}"}, ("nested",)),
        ("deep nesting of another key", {"text": '{"x": ' + "[" * 200 + "]" * 200 + "}"}, ("nested",)),
    ]
]

CLASSES = [
    Row(f"dataset.json: classes {value!r:.40}", _zip(named=value), ("x.zip:dataset.json", *words))
    for value, words in [
        ("cat", ("classes", "array")),
        (3, ("classes", "array")),
        ({"cat": 0}, ("classes", "array")),
        ([], ("classes are []",)),
        (["cat"], ("the class of b.png is 1", "0 to 0")),
        (["cat", "cat"], ("'cat' is given twice",)),
        (["cat", ""], ("expected names of class",)),
        (["cat", 1], ("classes[1]",)),
        (["cat", None], ("classes[1]",)),
    ]
]


def _patched(offset, content):
    """A zip in whose directory bytes of the last entry, ``dataset.json``, are others."""

    def attempt(folder):
        path = labelled.archive(folder / "x.zip", TWO)
        data = bytearray(path.read_bytes())
        place = data.rindex(b"PK\x01\x02") + offset
        data[place : place + len(content)] = content
        path.write_bytes(data)
        return len(ImageZip(str(path), labels=True, channels=1).index)

    return attempt


LABELS += [
    Row(
        "dataset.json: a gigabyte",
        _patched(24, (1 << 30).to_bytes(4, "little")),
        ("dataset.json", "1,073,741,824"),
    ),
    Row("dataset.json: encrypted", _patched(8, b"\x01\x00"), ("dataset.json cannot be read",)),
    Row(
        "dataset.json: of an unknown compression", _patched(10, b"\x63\x00"), ("dataset.json cannot be read",)
    ),
    Row(
        "dataset.json: a wrong checksum", _patched(16, b"\x00\x01\x02\x03"), ("dataset.json cannot be read",)
    ),
]


def _two_zips(first, second):
    def attempt(folder):
        paths = [
            str(labelled.archive(folder / f"{i}.zip", TWO, classes=names))
            for i, names in enumerate((first, second))
        ]
        return len(ImageZip(paths, labels=True, channels=1).index)

    return attempt


CLASSES += [
    Row("two zips: other names", _two_zips(["cat", "dog"], ["dog", "cat"]), ("[dog, cat]", "[cat, dog]")),
    Row("two zips: names in one only", _two_zips(["cat", "dog"], None), ("0.zip", "1.zip", "[cat, dog]")),
    Row("two zips: one name more", _two_zips(["cat", "dog"], ["cat", "dog", "emu"]), ("class 2 is 'emu'",)),
]


def _folder(classes, have=("cat", "dog"), **arguments):
    def attempt(folder):
        root = labelled.folder(folder / "set", dict.fromkeys(have, 2))
        images = ImageFolder(str(root), **{"labels": True, "channels": 1, "classes": classes, **arguments})
        return images[0], images.classes

    return attempt


NO_NAMES = (
    [],
    "",
    3,
    {"cat": 0},
    ["cat", "cat"],
    ["cat", ""],
    ["cat", None],
    ["cat", 1.5],
    ["cat", True],
    [["cat"]],
)

GIVEN = [Row(f"folder: classes {value!r:.30}", _folder(value), ("class",)) for value in NO_NAMES]
GIVEN += [Row(f"zip: classes {value!r:.30}", _zip(classes=value), ("class",)) for value in NO_NAMES]
GIVEN += [
    Row(f"zip with names: classes {value!r:.30}", _zip(named=["cat", "dog"], classes=value), ("class",))
    for value in NO_NAMES
]
GIVEN += [
    Row("folder: a class that is not given", _folder(["cat", "emu"]), ("[cat, dog]", "[dog]", "[cat, emu]")),
    Row("folder: names without labels", _folder(["cat", "dog"], labels=False), ("labels is false",)),
    Row(
        "folder: classes of a folder that is not there",
        _folder("nowhere"),
        ("classes in nowhere", "does not exist"),
    ),
    Row("folder: a class as its name is not", _folder(["Cat", "Dog"]), ("[cat, dog]", "[Cat, Dog]")),
    Row("zip: fewer names than classes", _zip(classes=["cat"]), ("the class of b.png is 1", "[cat]")),
    Row(
        "zip with names: a class that is not given",
        _zip(named=["cat", "dog"], classes=["cat", "emu"]),
        ("[cat, dog]", "[dog]", "[cat, emu]"),
    ),
    Row("zip: names without labels", _zip(labels=None, classes=["cat"], **{"text": ""}), ("missing",)),
]


def _noise(**arguments):
    return lambda folder: SeededNoise((1, 8, 8), 2, **{"num_classes": 3, **arguments})


NOISE = [
    Row(f"noise: labels {value!r:.30}", _noise(labels=value), ("SeededNoise", "label"))
    for value in (
        -1,
        3,
        1.5,
        True,
        "cat",
        [0],
        [0, 3],
        [-1, 0],
        [0.0, 1.0],
        [True, False],
        ["0", "1"],
        [],
        {},
        [[0, 1]],
    )
]
NOISE += [Row("noise: labels without classes", _noise(labels=1, num_classes=0), ("num_classes is 0",))]


def _predict(*words, before=()):
    """Predict with a network of two classes; before that, if there are words for it, with others."""

    def attempt(folder):
        network = tiny.unet(num_classes=2)
        content = tiny.fit(folder / "run", network=network, data={"noise": tiny.noise(num_classes=2)})
        writer = {"class_path": "flowlit.callbacks.ImageWriter", "init_args": {"folder": str(folder / "png")}}
        content["trainer"]["callbacks"] = [writer]
        path = tiny.write(folder / "x.yaml", {**content, "untrained": True})
        if before:
            assert in_process("predict", "-c", path, *before).code == 0
        return in_process("predict", "-c", path, *words)

    return attempt


COMMANDS = [
    Row(
        "predict: images of another seed are there",
        _predict("--data.noise.seed", 5, before=("--data.noise.seed", 4)),
        ("noise.seed: 4 there, 5 now", "choose another folder"),
    ),
    Row("predict: a class that the network has not", _predict("--data.noise.labels", 2), ("expected 0 … 1",)),
    Row("predict: more images than a disk", _predict("--data.noise.num", 10**12), ("GB are free",)),
]

ONE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
TWO_SIGNS = "cafe\N{COMBINING ACUTE ACCENT}"
ALIKE = {
    "two spellings in Unicode": (ONE, TWO_SIGNS),
    "two spellings of Hangul": ("\uac00", "\u1100\u1161"),
    "a blank at the end": ("cat", "cat "),
    "a blank before it": ("cat", " cat"),
    "two blanks": ("a cat", "a  cat"),
    "a blank that does not break": ("a cat", "a\N{NO-BREAK SPACE}cat"),
    "a blank of no width": ("cat", "ca\N{ZERO WIDTH SPACE}t"),
    "a soft hyphen": ("cat", "ca\N{SOFT HYPHEN}t"),
    "a mark of direction": ("cat", "cat\N{RIGHT-TO-LEFT MARK}"),
    "a byte order mark": ("cat", "\N{ZERO WIDTH NO-BREAK SPACE}cat"),
    "a joiner": ("cat", "c\N{ZERO WIDTH JOINER}at"),
    "a tab": ("a cat", "a\tcat"),
}
"""Names of classes that nobody can tell apart."""


def _classes_of(folder, names):
    labelled.folder(folder / "set", dict.fromkeys(names, 1))
    return names_in(str(folder / "set"))


LOOKS = [
    row
    for name, pair in ALIKE.items()
    for row in (
        Row(f"folder: classes with {name}", _folder(None, have=pair), ("set", "look alike", ascii(pair[1]))),
        Row(f"folder: given classes with {name}", _folder(list(pair), have=pair[:1]), ("look alike",)),
        Row(f"dataset.json: classes with {name}", _zip(named=pair), ("x.zip:dataset.json", "look alike")),
        Row(
            f"classes of a folder with {name}",
            lambda folder, pair=pair: _classes_of(folder, pair),
            ("set", "look alike"),
        ),
    )
]

ROWS = [*LABELS, *CLASSES, *GIVEN, *NOISE, *COMMANDS, *LOOKS]
