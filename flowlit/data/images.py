"""Small sets of real images, kept in memory."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveInt
from ..types import ImageDataset
from .base import _digest, _limited
from .decode import Decoded


class _InMemory(ImageDataset):
    """A set that is read as a whole at the first access, and indexed in memory from then on."""

    names: ClassVar[tuple[str, ...]]
    """Names of its classes."""

    def __init__(self, limit: PositiveInt | None, labels: bool):
        self.limit = limit
        self.labels = labels
        self._data: tuple[Tensor, Tensor] | None = None

    def _read(self) -> tuple[Tensor, Tensor]:
        """Return uint8 images (N, C, H, W) and labels (N,)."""
        raise NotImplementedError

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        if self._data is None:
            images, labels = self._read()
            count = _limited(len(images), self.limit, type(self).__name__)
            self._data = images[:count], labels[:count].long()
        return self._data

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.names if self.labels else None

    def label_counts(self) -> Counter[int] | None:
        return Counter(self.data[1].tolist()) if self.labels else None

    def __len__(self) -> int:
        return len(self.data[0])

    left_out: Counter[str] = Counter()
    """Files of other kinds, of which there are none."""

    def listed(self) -> int:
        return len(self)

    def labelled(self) -> bool:
        return True

    def class_numbers(self) -> np.ndarray:
        """Return the class of each image, (images,) int64."""
        return self.data[1].numpy()

    def load(self, index: int) -> Decoded:
        """Return an image as a file of it would be decoded."""
        pixels = self.data[0][index].permute(1, 2, 0).squeeze(-1).numpy()
        image = Image.fromarray(pixels)
        return Decoded(image, type(self).__name__, image.mode, ())

    def name(self, index: int) -> str:
        """Return a name for a file of an image."""
        return f"{index:08d}"

    def where(self, index: int) -> str:
        return f"image {index} of {type(self).__name__}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, labels = self.data
        return {"x1": images[index], "cond": {"label": labels[index]} if self.labels else {}}

    @property
    def fingerprint(self) -> str:
        return _digest(type(self).__name__, hashlib.sha256(self.data[0].numpy().tobytes()).hexdigest())


class Digits(_InMemory):
    """scikit-learn's handwritten digits: 1,797 images of 1×8×8, 17 grey levels, 10 classes; part of the
    installation.

    Args:
        part: "all", or a fixed split by index: every fifth image is "test", the others are "train".
        limit: use only the first images.
        labels: put the class into ``cond``.

    Source: Alpaydin and Kaynak, UCI Machine Learning Repository, 1998.
    """

    names = tuple("0123456789")

    def __init__(
        self,
        part: Literal["all", "train", "test"] = "all",
        limit: PositiveInt | None = None,
        labels: bool = True,
    ):
        super().__init__(limit, labels)
        self.part = part

    def _read(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target)
        test = torch.arange(len(images)) % 5 == 4
        keep = {"all": torch.ones_like(test), "train": ~test, "test": test}[self.part]
        return images[keep], labels[keep]


class CIFAR10(_InMemory):
    """CIFAR-10 through torchvision: 50,000 training (10,000 test) images of 3×32×32, 10 classes.

    Args:
        root: where torchvision keeps it.
        train: the training part.
        download: fetch it if it is not there (163 MiB).
        limit, labels: as for ``Digits``.
    """

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(
        self,
        root: str = "data/cifar10",
        train: bool = True,
        download: bool = True,
        limit: PositiveInt | None = None,
        labels: bool = True,
    ):
        super().__init__(limit, labels)
        self.root = root
        self.train = train
        self.download = download

    @property
    def sources(self) -> list[str]:
        return [self.root]

    @staticmethod
    def is_in(folder: str) -> bool:
        """Return whether torchvision has put CIFAR-10 into a folder."""
        names = ("cifar-10-python.tar.gz", "cifar-10-batches-py")
        return any(os.path.exists(os.path.join(folder, name)) for name in names)

    def _read(self) -> tuple[Tensor, Tensor]:
        from torchvision import datasets  # as heavy to import as PyTorch itself

        try:
            data = datasets.CIFAR10(self.root, train=self.train, download=self.download)
        except (OSError, RuntimeError) as error:
            raise FlowlitError(
                f"CIFAR-10 is not in {self.root} and could not be downloaded ({error}). Put "
                "cifar-10-python.tar.gz there, or read your own copy with class_path: flowlit.data.ImageZip "
                "or flowlit.data.ImageFolder"
            ) from error
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)
