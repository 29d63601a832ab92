"""Pairs of other projects: folders of ``z0.npy``, ``z1.npy``, and zips of images whose noise is a torch
seed.
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..._support.arrays import map_npy
from ...data import ImageZip, Pixels
from ...errors import FlowlitError
from ...types import Codec

MOST_CLASSES = 1 << 31


class Rows(NamedTuple):
    """Some pairs as another project stored them."""

    index: np.ndarray  # type: ignore[assignment]  # (rows,) int64
    x0: torch.Tensor  # (rows, C, H, W) float32
    x1: torch.Tensor
    label: np.ndarray | None  # (rows,) int64


class PairReader(ABC):
    """Pairs that share one seed; their indices are unique and rise."""

    seed: int
    shape: tuple[int, ...]
    generator: str
    codec: Codec = Pixels()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> Rows:
        """Read rows start … stop - 1, and no others: x0 and x1 are (rows, C, H, W)."""

    @abstractmethod
    def num_classes(self) -> int:
        """Return the number of classes in the labels; 0 without labels."""


class PairFolder(PairReader):
    """``z0.npy``, ``z1.npy`` (rows, C, H, W) and perhaps ``label.npy``, (rows,) or one-hot (rows, classes),
    of one seed.

    Arrays are mapped and only the rows needed are read; pickled arrays are refused.

    Args:
        folder: if its name is a number, that is the seed; otherwise a hash of its name.
        swap: z0 is the data and z1 the noise.
        data_range: values of black and white in the data.
    """

    def __init__(self, folder: Path, swap: bool = False, data_range: tuple[float, float] = (-1.0, 1.0)):
        if not -math.inf < data_range[0] < data_range[1] < math.inf:
            raise FlowlitError(
                f"data_range is {data_range}; expected the value of black, and a larger one of white"
            )
        self.folder = folder
        self.data_range = data_range
        name = folder.resolve().name
        is_seed = name.isdecimal() and int(name) < 1 << 128
        self.seed = int(name) if is_seed else int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
        self.noise, self.data = ("z1.npy", "z0.npy") if swap else ("z0.npy", "z1.npy")
        self.generator = (
            f"unknown: imported, noise from {self.noise}, data in {data_range[0]:g} … {data_range[1]:g} from "
            f"{self.data}"
        )
        shapes = {name: self._map(name).shape for name in (self.noise, self.data)}
        if len(set(shapes.values())) > 1 or len(shapes[self.data]) != 4 or 0 in shapes[self.data][1:]:
            raise FlowlitError(f"{folder}: found {shapes}, expected two arrays of one shape (rows, C, H, W)")
        self.rows = shapes[self.data][0]
        self.shape = shapes[self.data][1:]
        if not self.rows:
            raise FlowlitError(f"{folder}: its arrays have no rows; remove it")
        self.labelled = (folder / "label.npy").exists()
        if self.labelled:
            self._check_labels()
        self._check_range()

    def _map(self, name: str) -> np.ndarray:
        path = self.folder / name
        try:
            return map_npy(path)
        except FileNotFoundError as error:
            raise FlowlitError(
                f"{path} does not exist; expected z0.npy (noise) and z1.npy (data) in each folder"
            ) from error
        except (ValueError, OSError) as error:
            raise FlowlitError(
                f"{path} cannot be read as a plain array ({error}); save it with numpy.save"
            ) from error

    def _check_labels(self) -> None:
        label = self._map("label.npy")
        one_hot = label.ndim == 2 and label.shape[1] > 1  # and may then be float
        integers = np.issubdtype(label.dtype, np.integer)
        if label.ndim not in (1, 2) or len(label) != self.rows or not (integers or one_hot) or not label.size:
            raise FlowlitError(
                f"{self.folder}: label.npy is {label.dtype} {label.shape} for {self.rows} pairs; expected "
                "whole numbers (rows,), or one-hot (rows, classes)"
            )
        if integers and not 0 <= label.min() <= label.max() < MOST_CLASSES:
            raise FlowlitError(
                f"{self.folder}: label.npy has {label.min()} … {label.max()}; expected classes from 0"
            )

    def _check_range(self) -> None:
        low, high = self.data_range
        part = np.asarray(self._map(self.data)[:64], np.float32)
        least = float(part.min())
        most = float(part.max())
        width = high - low
        outside = least < low - width / 2 or most > high + width / 2
        narrow = most - least < 0.05 * width or (self.data_range == (-1.0, 1.0) and least >= -0.02)
        if outside or narrow:
            raise FlowlitError(
                f"{self.folder / self.data}: values {least:.2f} … {most:.2f} do not look like data in "
                f"{low:g} … {high:g}; say which range it has (--data_range 0 1, or 0 255), or --swap if this "
                "is the noise"
            )

    def __len__(self) -> int:
        return self.rows

    def read(self, start: int, stop: int) -> Rows:
        low, high = self.data_range
        x0 = torch.from_numpy(np.array(self._map(self.noise)[start:stop], np.float32))
        data = torch.from_numpy(np.array(self._map(self.data)[start:stop], np.float32))
        x1 = (data - low) * (2 / (high - low)) - 1
        return Rows(np.arange(start, stop), x0, x1, self._labels(start, stop))

    def _labels(self, start: int, stop: int) -> np.ndarray | None:
        if not self.labelled:
            return None
        label = np.asarray(self._map("label.npy")[start:stop])
        if label.ndim == 2 and label.shape[1] > 1:
            if not (np.isin(label, (0, 1)).all() and (label.sum(1) == 1).all()):
                raise FlowlitError(
                    f"{self.folder}: label.npy is neither whole numbers (rows,) nor one-hot (rows, classes)"
                )
            label = label.argmax(1)
        return label.reshape(-1).astype(np.int64)

    def num_classes(self) -> int:
        if not self.labelled:
            return 0
        label = self._map("label.npy")
        return label.shape[1] if label.ndim == 2 and label.shape[1] > 1 else int(label.max()) + 1


class SeededZip(PairReader):
    """A zip of images, each generated from the noise ``torch.randn`` of a seed of its own, as EDM does.

    Args:
        path: the zip, with ``dataset.json`` if there are labels.
        seeds: of the images in the order of their names; None reads them from the names
            (``000000/000123.png`` is 123).
        device: where the noise was drawn: "cpu" and "cuda" differ.
        labels: read classes from dataset.json.
        codec: images to x1, of which the noise has the shape; None is ``Pixels``.
    """

    seed = 0

    def __init__(
        self,
        path: Path,
        seeds: Sequence[int] | None = None,
        device: str = "cpu",
        labels: bool = False,
        codec: Codec | None = None,
    ):
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise FlowlitError(
                f"{path}: device is {device!r}; expected cpu or cuda, where the noise was drawn"
            )
        self.images = ImageZip(str(path), labels=labels)
        self.device = device
        self.codec = codec or Pixels()
        names = [name for _, name, _ in self.images.index]
        self.images.channels = 1 if self.images.grey else 3
        given = _seeds_of(names) if seeds is None else seeds
        if len(given) != len(names):
            raise FlowlitError(
                f"{path}: {len(given)} seeds for {len(names)} images; give one for each, in order of names"
            )
        if not 0 <= min(given) <= max(given) < 1 << 63:
            raise FlowlitError(f"{path}: seeds are {min(given)} … {max(given)}; expected 0 to 2^63 - 1")
        numbers = np.asarray(given, np.int64)
        self.order = np.argsort(numbers, kind="stable")
        self.numbers = numbers[self.order]
        drawn = np.sort(self.numbers % (1 << 32))
        twice = drawn[1:][np.diff(drawn) == 0]
        if len(twice):
            raise FlowlitError(
                f"{path}: seed {twice[0]} (mod 2^32) occurs twice; its pairs would be the same"
            )
        if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
            raise FlowlitError(f"{path}: the noise is to be drawn on {device}, which is not there")
        self.generator = f"torch.Generator({device}).manual_seed(seed mod 2^32), randn"

    @cached_property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.codec.encoded_shape(self.images[0]["x1"].shape)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, start: int, stop: int) -> Rows:
        items = [self.images[i] for i in self.order[start:stop].tolist()]
        numbers = self.numbers[start:stop]
        label = np.array([int(item["cond"]["label"]) for item in items]) if self.images.labels else None
        x1 = self.codec.encode(torch.stack([item["x1"] for item in items]))
        return Rows(numbers, torch.stack([self._noise(int(n)) for n in numbers]), x1, label)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes in ``dataset.json``."""
        return self.images.classes

    def _noise(self, number: int) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(number % (1 << 32))
        return torch.randn(self.shape, generator=generator, device=self.device).cpu()

    def num_classes(self) -> int:
        return 1 + max(int(label or 0) for _, _, label in self.images.index) if self.images.labels else 0


def _seeds_of(names: Sequence[str]) -> list[int]:
    matches = [re.search(r"(\d+)$", Path(name).stem) for name in names]
    if missing := [name for name, match in zip(names, matches, strict=True) if match is None]:
        raise FlowlitError(f"{missing[0]} has no number in its name to be its seed; give them with --seeds")
    return [int(match[1]) for match in matches if match]
