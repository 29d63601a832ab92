"""Features of generated images on disk, by index, so that neither ranks nor batches leave a trace."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._support.files import reserve, write_atomically
from ..errors import FlowlitError


class FeatureCache:
    """A folder of files, each with an ``index`` (n,) and further tensors (n, …) by name.

    Args:
        folder: of one set of images.
        rows: how many are gathered before a file is written.
        device: on which the rows are computed; noted in every file.
    """

    def __init__(self, folder: Path, rows: int = 1000, device: str = ""):
        self.folder = folder
        self.device = device
        self.rows = rows
        self._waiting: list[dict[str, Tensor]] = []
        self._since = time.monotonic()

    def clean(self) -> np.ndarray:
        """Remove damaged files, and those that a killed writer left unfinished; return what is ``stored``."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in self._paths():
            if not _is_sound(path):
                path.unlink(missing_ok=True)
        return self.stored()

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[!.]*.safetensors") if path.is_file())

    def files(self) -> dict[Path, Tensor]:
        """Return every file, and its indices (n,).

        Raises:
            FlowlitError: if one cannot be read.
        """
        return {path: _tensor(path, "index") for path in self._paths()}

    def stored(self) -> np.ndarray:
        """Return the indices that are on disk, in ascending order."""
        parts = [index.numpy() for index in self.files().values()]
        return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))

    def made(self) -> tuple[list[str], float]:
        """Return the devices that computed the rows, and their seconds, summed."""
        devices = set()
        seconds = 0.0
        for path in self._paths():
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            devices.add(metadata.get("device", "unknown"))
            seconds += float(metadata.get("seconds", 0))
        return sorted(devices), seconds

    def add(self, rows: dict[str, Tensor]) -> None:
        """Add rows (n, …) by name; they are on disk when enough have come, or after ``flush``."""
        self._waiting.append({name: tensor.cpu() for name, tensor in rows.items()})
        if sum(len(part["index"]) for part in self._waiting) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows that were gathered."""
        if self._waiting:
            rows = {
                name: torch.cat([part[name] for part in self._waiting]).contiguous()
                for name in self._waiting[0]
            }
            metadata = {"device": self.device, "seconds": f"{time.monotonic() - self._since:.3f}"}
            # random, since other ranks and processes write here, too
            name = f"{int(rows['index'].min()):08d}-{secrets.token_hex(4)}.safetensors"
            write_atomically(self.folder / name, save(rows, metadata))
            self._waiting = []
            self._since = time.monotonic()

    def read(self, name: str, num: int) -> tuple[Tensor, Tensor]:
        """Read a small tensor: indices (n,) below ``num`` in ascending order, and its rows (n, …)."""
        return self._read(name, lambda index: index < num)

    def some(self, name: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read the ``indices`` that are here, (n,) in ascending order, and their rows (n, …) of a tensor."""
        return self._read(name, lambda index: torch.isin(index, indices))

    def _read(self, name: str, wanted: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        masks = [(path, index, wanted(index)) for path, index in self.files().items()]
        parts = [(index[mask], _tensor(path, name)[mask]) for path, index, mask in masks if mask.any()]
        index, rows = map(torch.cat, zip(*parts, strict=True))
        index, first = _first_of_each(index)
        return index, rows[first]

    @contextmanager
    def gathered(self, name: str, num: int) -> Iterator[Tensor]:
        """Yield a large tensor (n, …), the rows of indices below ``num`` in order, mapped from a file."""
        files = self.files()
        order, _ = _first_of_each(torch.cat(list(files.values())))
        order = order[order < num]
        path = self.folder / f".{name}.tmp"
        out = None
        try:
            for file, index in files.items():
                rows = _tensor(file, name).numpy()
                if out is None:
                    out = np.memmap(path, rows.dtype, "w+", shape=(len(order), *rows.shape[1:]))
                    reserve(path)
                below = index.numpy() < num
                out[np.searchsorted(order.numpy(), index.numpy()[below])] = rows[below]
            yield torch.from_numpy(out)
        finally:
            path.unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    """Return whether a file has unique indices from 0, and as many rows of every other tensor."""
    try:
        with safe_open(path, "pt") as file:
            index = file.get_tensor("index")
            names = file.keys()  # no mapping
            rows = {file.get_slice(name).get_shape()[0] for name in names}
            seconds = float((file.metadata() or {}).get("seconds", 0))
    except (SafetensorError, OSError, ValueError, IndexError):
        return False
    if index.dtype != torch.int64 or index.dim() != 1 or rows != {len(index)} or not len(index):
        return False
    return bool(index.min() >= 0 and len(index.unique()) == len(index) and seconds >= 0)


def _tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise FlowlitError(
            f"features {path} cannot be read ({error}); remove it, and run the same command again"
        ) from error


def _first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted indices without repetition, and where each stands first."""
    values, where = np.unique(index.numpy(), return_index=True)
    return torch.from_numpy(values), torch.from_numpy(where)
