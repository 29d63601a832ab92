"""Hostile arguments of the Python interface: ``Generator``, its ``sample`` and call, and ``flowlit.load``."""

import itertools
from functools import cache

import numpy as np
import torch
from tools import LinearField, tiny_unet

import flowlit
from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.solvers import Euler

from .row import Row

SHAPE = (1, 8, 8)
NAN = torch.full((2, *SHAPE), float("nan"))
INFINITE = torch.zeros(2, *SHAPE).index_fill(0, torch.tensor([1]), float("inf"))


@cache
def _generator(classes=3, names=("cat", "dog", "emu")):
    return Generator(
        tiny_unet(num_classes=classes).eval(), Euler(1), Pixels(), SHAPE, classes, class_names=names
    )


def _sample(num=2, **arguments):
    return lambda folder: _generator().sample(num, **arguments)


def _call(*arguments):
    return lambda folder: _generator()(*arguments)


def _label(value):
    return lambda folder: _generator()(torch.zeros(2, *SHAPE), {"label": value})


def _of(name, value, words):
    return Row(f"sample: {name} = {value!r:.40}", _sample(**{name: value}), words)


NO_NUMBERS = (2.5, "a", "3", None, True, np.float32(2), [1], float("nan"), float("inf"), np.bool_(True), b"1")

WHOLE = [
    _of(name, value, (f"{name} is", "whole number"))
    for name in ("num", "seed", "batch_size")
    for value in (-1, -(2**70), *NO_NUMBERS)
]
WHOLE += [_of(name, 0, (f"{name} is 0", "from 1")) for name in ("num", "batch_size")]
WHOLE += [_of("seed", value, ("seed is", "to 18446744073709551615")) for value in (2**64, 2**70)]
WHOLE += [
    _of("num", 10**12, ("images", "are free", "flowlit sample")),
    *(_of("num", value, ("num is", "whole number", "64 bits")) for value in (2**70, 10**30)),
]

LABELS = [
    _of("label", value, (word,))
    for value, word in [
        *((value, "label is") for value in (-1, 3, 10**30, 1.0, True, b"cat", np.float64(1))),
        ("bird", "'bird', which is none of its 3 classes: cat, dog, emu"),
        ([0], "1 labels for 2 images"),
        ([0, 5], "label is 5"),
        ([0, "owl"], "'owl'"),
        ([0, 1.5], "label is 1.5"),
        ([0, None], "label is None"),
        ([], "0 labels for 2 images"),
        ({"label": 1}, "label is {'label': 1}"),
        (np.zeros((2, 2), int), "label is"),
        (torch.tensor([0.5, 1.0]), "label is"),
    ]
]

NOISE = [
    Row(f"noise: {name}", _call(value), words)
    for name, value, words in [
        ("none", None, ("noise is a NoneType", "expected a tensor")),
        ("a list", [[1.0]], ("noise is a list",)),
        ("text", "noise", ("noise is a str",)),
        ("objects", np.array([object()]), ("noise is a object array",)),
        ("texts", np.array(["1"]), ("expected a tensor or a NumPy array",)),
        ("complex", np.zeros((2, *SHAPE), complex), ("complex128 array",)),
        ("complex tensor", torch.zeros(2, *SHAPE, dtype=torch.complex64), ("complex64", "floating-point")),
        ("whole", torch.zeros(2, *SHAPE, dtype=torch.int64), ("torch.int64", "floating-point")),
        ("whole in NumPy", np.zeros((2, *SHAPE), np.uint8), ("torch.uint8", "floating-point")),
        ("truth values", torch.zeros(2, *SHAPE, dtype=torch.bool), ("torch.bool",)),
        ("of 8 bits", torch.zeros(2, *SHAPE).to(torch.float8_e4m3fn), ("float8_e4m3fn", "floating-point")),
        ("of 128 bits", np.zeros((2, *SHAPE), np.longdouble), ("float128 array",)),
        ("sparse", torch.zeros(2, *SHAPE).to_sparse(), ("expected a tensor",)),
        ("without memory", torch.zeros(2, *SHAPE, device="meta"), ("expected a tensor",)),
        ("without a batch", torch.zeros(SHAPE), ("(1, 8, 8)", "(B, 1, 8, 8)")),
        ("other channels", torch.zeros(2, 3, 8, 8), ("(2, 3, 8, 8)", "(B, 1, 8, 8)")),
        ("other sizes", torch.zeros(2, 1, 8, 9), ("(2, 1, 8, 9)",)),
        ("a scalar", torch.tensor(1.0), ("has shape ()",)),
        ("no rows", torch.zeros(0, *SHAPE), ("(0, 1, 8, 8)", "at least 1")),
        ("NaN", NAN, ("not finite",)),
        ("NaN in NumPy", NAN.numpy(), ("not finite",)),
        ("infinity", INFINITE, ("not finite",)),
        ("infinity as float16", INFINITE.half(), ("not finite",)),
    ]
]

CONDITIONS = [
    Row(f"labels: {name}", _label(value), words)
    for name, value, words in [
        ("fractions", torch.tensor([0.0, 1.0]), ("torch.float32", "one class an image")),
        ("truth values", torch.tensor([False, True]), ("torch.bool",)),
        ("one-hot", torch.eye(3, dtype=torch.int64)[:2], ("(2, 3)", "argmax")),
        ("one for two images", torch.tensor([1]), ("(1,)", "(2, …)")),
        ("three for two images", np.array([0, 1, 2]), ("(3,)", "(2, …)")),
        ("a scalar", torch.tensor(1), ("has shape ()",)),
        ("a number", 1, ("condition 'label' is a int",)),
        ("a list", [0, 1], ("condition 'label' is a list",)),
        ("text", "cat", ("condition 'label' is a str",)),
        ("none", None, ("NoneType",)),
        ("too high", torch.tensor([0, 3]), ("0 to 3", "from 0 to 2")),
        ("below zero", torch.tensor([-1, 2]), ("-1 to 2",)),
        ("huge", np.array([2**62, 0]), ("from 0 to 2",)),
    ]
]
CONDITIONS += [
    Row("conditions: a tensor", _call(torch.zeros(2, *SHAPE), torch.zeros(2)), ("conditions are a Tensor",)),
    Row("conditions: 3", _call(torch.zeros(2, *SHAPE), {3: torch.zeros(2)}), ("condition 3", "label")),
    Row("labels: uint64", _label(torch.tensor([0, 3], dtype=torch.uint64)), ("0 to 3",)),
    Row("conditions: None", _call(torch.zeros(2, *SHAPE), None), ("conditions are a NoneType",)),
    Row(
        "conditions: one that the network does not read",
        _call(torch.zeros(2, *SHAPE), {"text": torch.zeros(2)}),
        ("cond has text",),
    ),
]


def _generators(**changes):
    arguments = {
        "network": LinearField(),
        "solver": Euler(1),
        "codec": Pixels(),
        "shape": SHAPE,
        "num_classes": 3,
    }
    return lambda folder: Generator(**{**arguments, **changes})


BUILT = [
    Row(f"Generator: {name} = {value!r:.40}", _generators(**{name: value}), words)
    for name, value, words in [
        ("network", None, ("network is a NoneType", "Module")),
        ("network", LinearField, ("network is the class LinearField", "write LinearField(…)")),
        ("network", "net.ckpt", ("network is a str",)),
        ("solver", Euler, ("solver is the class Euler", "write Euler(…)")),
        ("solver", "euler", ("solver is a str",)),
        ("solver", 4, ("solver is a int",)),
        ("codec", Pixels, ("codec is the class Pixels",)),
        ("codec", None, ("codec is a NoneType",)),
        *(("shape", value, ("shape is", "(c, h, w)")) for value in (5, "188", 1.5, {1: 8})),
        ("shape", (1, 8, 0), ("a size of shape is 0",)),
        ("shape", (1, 8, 2.5), ("a size of shape is 2.5",)),
        ("shape", (1, -8, 8), ("a size of shape is -8",)),
        ("num_classes", -1, ("num_classes is -1",)),
        ("num_classes", 2.5, ("num_classes is 2.5",)),
        ("class_names", ("a", "b"), ("class_names is", "expected 3 different names")),
        ("class_names", ("a", "a", "b"), ("class_names is",)),
        ("class_names", "cat", ("class_names is 'cat'",)),
        ("class_names", (0, 1, 2), ("class_names is (0, 1, 2)",)),
        ("blocks", -1, ("blocks is a int", "bool")),
        ("blocks", "yes", ("blocks is a str",)),
        ("precision", "", ("precision is ''",)),
        ("precision", "fp16", ("precision is 'fp16'", "bf16")),
        ("precision", 16, ("precision is 16",)),
        ("precision", None, ("precision is None",)),
    ]
]

OTHERS = [
    Row(
        "sample: a label for a network without classes",
        lambda folder: _generator(0, None).sample(2, label=0),
        ("label is 0", "no classes"),
    ),
    Row(
        "sample: a name where classes have none",
        lambda folder: _generator(3, None).sample(2, label="cat"),
        ("have no names", "give a number"),
    ),
    Row("sample: a source that is none", _sample(source=[1, 2]), ("source is a list", "Source")),
    Row(
        "sample: a label beside a source",
        lambda folder: _generator().sample(2, source=flowlit.couplings.SeededNoise(SHAPE, 2), label=1),
        ("a source brings its labels",),
    ),
    Row(
        "sample: a batch that no memory holds",
        _sample(num=2**40, batch_size=2**40),
        ("are free",),
    ),
    Row(
        "faster: an unknown precision",
        lambda folder: _generator().faster("fp8"),
        ("precision is 'fp8'",),
    ),
]


SEEDS = [
    Row(f"{verb}: seeds = {value!r:.40}", attempt(value), ("seed",))
    for value in (
        None,
        [],
        "12",
        b"1",
        {1, 2},
        {},
        [1.5],
        ["1"],
        [None],
        [True],
        -1,
        [-1],
        [2**64],
        2.5,
        [[1]],
    )
    for verb, attempt in {
        "noise": lambda value: lambda folder: _generator().noise(value),
        "sample": lambda value: _sample(None, seeds=value),
        "interpolate": lambda value: lambda folder: _generator().interpolate(value),
    }.items()
    if not (value is None and verb == "sample")
]

VERBS = [
    Row("sample: nothing", lambda folder: _generator().sample(), ("num is None", "or seeds=")),
    Row("sample: num and seeds", _sample(2, seeds=[1, 2]), ("seeds are given", "leave them out")),
    Row("sample: label and labels", _sample(2, label=1, labels=1), ("leave label out",)),
    Row("sample: labels of other seeds", _sample(None, seeds=[1, 2, 3], labels=[0, 1]), ("2 labels for 3",)),
    Row("sample: a name of no class", _sample(None, seeds=[1], labels="bird"), ("none of its 3 classes",)),
    Row("noise: more than memory holds", lambda f: _generator().noise(range(2**40)), ("are free",)),
    Row(
        "noise: a network without a shape",
        lambda f: Generator(LinearField(), Euler(1), Pixels()).noise(1),
        ("shape",),
    ),
    Row(
        "call: labels twice",
        lambda f: _generator()(NAN.nan_to_num(), {"label": torch.zeros(2)}, labels=1),
        ("as well",),
    ),
    Row("call: labels of others", lambda f: _generator()(NAN.nan_to_num(), labels=[1]), ("1 labels for 2",)),
    Row("interpolate: one seed", lambda f: _generator().interpolate([1]), ("two or more",)),
    *(
        Row(
            f"interpolate: steps = {value!r}",
            lambda f, value=value: _generator().interpolate([1, 2], value),
            ("steps is",),
        )
        for value in (1, 0, -1, 2.5, None, "3")
    ),
    *(
        Row(
            f"grid: {name} = {value!r}", lambda f, a={name: value}: _generator().grid(2, **a), (f"{name} is",)
        )
        for name, value in itertools.product(("columns", "scale"), (0, -1, 2.5, "3"))
    ),
    *(
        Row(
            f"{verb.__name__}: {value!r:.40}",
            lambda f, verb=verb, value=value: verb(value),
            ("images are", "uint8 (N, C, H, W)"),
        )
        for verb in (flowlit.generators.pil, flowlit.generators.grid)
        for value in (
            None,
            [],
            NAN,
            torch.zeros(0, 1, 8, 8).byte(),
            torch.zeros(2, 8, 8).byte(),
            torch.zeros(1, 2, 8, 8).byte(),
        )
    ),
]


def _load_file(content, **arguments):
    def attempt(folder):
        (folder / "x.ckpt").write_bytes(content)
        return flowlit.load(folder / "x.ckpt", **arguments)

    return attempt


LOADED = [
    Row(
        f"load: {value!r:.40}",
        lambda folder, value=value: flowlit.load(value),
        ("checkpoint is", "path of a file"),
    )
    for value in (None, b"last.ckpt", 5, 2.5, ["last.ckpt"], {}, True, "", torch.zeros(2))
]
LOADED += [
    Row(f"load: a file of {kind}", _load_file(content), ("x.ckpt",))
    for kind, content in {
        "nothing": b"",
        "text": b"not a checkpoint",
        "JSON": b'{"state_dict": {}}',
        "zeros": bytes(4096),
        "the beginning of a zip": b"PK\x03\x04" + bytes(60),
        "an empty zip": b"PK\x05\x06" + bytes(18),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(60),
        "NumPy": b"\x93NUMPY\x01\x00" + bytes(60),
        "a pickle of a number": b"\x80\x02K\x05.",
    }.items()
]
LOADED += [
    Row(
        "load: a file that is not there", lambda folder: flowlit.load(folder / "no.ckpt"), ("does not exist",)
    ),
    Row("load: a folder", lambda folder: flowlit.load(folder), ("checkpoint",)),
    *(
        Row(f"load: {name} = {value!r:.30}", _load_file(b"", **{name: value}), (f"{name} is", "expected"))
        for name, value in [
            ("weights", None),
            ("weights", 5),
            ("weights", ["ema"]),
            ("solver", "euler"),
            ("solver", Euler),
            ("network", "unet"),
            ("network", LinearField),
        ]
    ),
]

ROWS = [*WHOLE, *LABELS, *NOISE, *CONDITIONS, *BUILT, *OTHERS, *SEEDS, *VERBS, *LOADED]
