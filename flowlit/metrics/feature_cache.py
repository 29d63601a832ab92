"""Features of generated images on disk, by index: an interrupted evaluation goes on, and ranks and batches
leave no trace.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._support.files import write_atomically
from ..errors import FlowlitError


class FeatureCache:
    """A folder of files, each with an ``index`` (n,) and further tensors (n, …) by name.

    Args:
        folder: of one set of images; others have others.
        rows: how many are gathered before a file is written.
        device: what makes the rows that are added; noted in every file.
    """

    def __init__(self, folder: Path, rows: int = 1000, device: str = ""):
        self.folder = folder
        self.device = device
        self.rows = rows
        self._waiting: list[dict[str, Tensor]] = []
        self._since = time.monotonic()

    def clean(self) -> None:
        """Remove what a writer that was killed left unfinished, and damaged files, which are then made
        again.
        """
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for path in self._paths():
            try:
                with safe_open(path, "pt") as file:
                    file.get_tensor("index")
            except SafetensorError:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[!.]*.safetensors"))

    def files(self) -> dict[Path, Tensor]:
        """Every file, and the indices that it holds.

        Raises:
            FlowlitError: if one cannot be read.
        """
        return {path: _tensor(path, "index") for path in self._paths()}

    def stored(self) -> np.ndarray:
        """Indices that are on disk, in ascending order."""
        return np.unique(
            np.concatenate([np.empty(0, np.int64), *(index.numpy() for index in self.files().values())])
        )

    def made(self) -> tuple[list[str], float]:
        """Tell on which machines the rows were made, and in how many seconds of all devices together."""
        devices = set()
        seconds = 0.0
        for path in self._paths():
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
            devices.add(told.get("device", "unknown"))
            seconds += float(told.get("seconds", 0))
        return sorted(devices), seconds

    def add(self, rows: dict[str, Tensor]) -> None:
        """Take some rows; they are on disk when enough have come, or after ``flush``."""
        self._waiting.append({name: tensor.cpu() for name, tensor in rows.items()})
        if sum(len(part["index"]) for part in self._waiting) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._waiting:
            whole = {
                name: torch.cat([part[name] for part in self._waiting]).contiguous()
                for name in self._waiting[0]
            }
            told = {"device": self.device, "seconds": f"{time.monotonic() - self._since:.3f}"}
            # nobody else's, at work here, too
            name = f"{int(whole['index'].min()):08d}-{secrets.token_hex(4)}.safetensors"
            write_atomically(self.folder / name, save(whole, told))
            self._waiting = []
            self._since = time.monotonic()

    def read(self, name: str, num: int) -> tuple[Tensor, Tensor]:
        """Read a small tensor: (indices below ``num``, rows), in the order of indices."""
        parts = [(index, _tensor(path, name)) for path, index in self.files().items()]
        index, rows = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        index, first = _first_of_each(index)
        keep = index < num
        return index[keep], rows[first[keep]]

    def some(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Read some rows of a tensor: those of ``wanted`` that are here, in ascending order."""
        found = [(path, index, torch.isin(index, wanted)) for path, index in self.files().items()]
        parts = [(index[mask], _tensor(path, name)[mask]) for path, index, mask in found if mask.any()]
        index, rows = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        index, first = _first_of_each(index)
        return index, rows[first]

    @contextmanager
    def gathered(self, name: str, num: int) -> Iterator[Tensor]:
        """A large tensor with the rows of all indices below ``num`` in their order; it lives in a file, not
        in memory.
        """
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
                wanted = index.numpy() < num
                out[np.searchsorted(order.numpy(), index.numpy()[wanted])] = rows[wanted]
            yield torch.from_numpy(out)
        finally:
            path.unlink(missing_ok=True)


def _tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise FlowlitError(
            f"features {path} cannot be read ({error}); remove it, and run the same command again"
        ) from error


def _first_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted indices without repetition, and where each stands first."""
    values, where = np.unique(index.numpy(), return_index=True)
    return torch.from_numpy(values), torch.from_numpy(where)
