"""Pairs read from stores that ``flowlit couple`` made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from .._support.machine import free_memory
from .._support.nested import rows_of
from .._support.progress import Bar
from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveInt, Probability
from ..types import Codec, Coupling, Pair
from .flip import check_flip, random_flip
from .prompted import without_text
from .store.encoding import check_codec, restored_pair
from .store.reader import StoredPairs
from .store.states import warn_of_rounding


class Cached(Coupling):
    """Stored pairs: reflow, annealed reflow and distillation train on them.

    Args:
        store: folder made by ``flowlit couple`` or ``flowlit couplings import``; a list is read as one set.
        flip: mirror both ends of each pair with probability ½; right if the teacher was trained with flips.
        limit: use only the first pairs.
        resident: keep all pairs on the device, in the dtypes of the store, so that only row numbers are
            copied there; right where they fit into its memory.
        checksums: verify each file when it is opened; ``flowlit couplings verify`` checks all of them.
        only: take the pairs of these classes, or of prompts by number, alone, of those first ones; None takes
            all.
        states: read so many states of each trajectory, x1 among them, for
            ``flowlit.objectives.flow_maps.OnTrajectories``, from a store that has them (``flowlit couple
            --times``). None reads pairs alone, of which a store with states has them, too.
        text_dropout: of pairs with prompts, probability of the empty text in place of one.
    """

    def __init__(
        self,
        store: str | list[str],
        flip: bool = False,
        limit: PositiveInt | None = None,
        resident: bool = False,
        checksums: bool = True,
        only: Sequence[NonNegativeInt] | None = None,
        states: PositiveInt | None = None,
        text_dropout: Probability = 0.0,
    ):
        if not store:
            raise FlowlitError(f"Cached: store is {store!r}; expected a folder of pairs, or several")
        self.store = store
        self.flip = flip
        self.limit = limit
        self.resident = resident
        self.checksums = checksums
        self.only = only
        self.states = states
        self.text_dropout = text_dropout
        self._null: Tensor | None = None  # embedding of the empty text, (L, D)
        self._resident: Pair | None = None

    def dataset(self) -> Dataset:
        folders = [self.store] if isinstance(self.store, str) else self.store
        self._pairs = StoredPairs(folders, self.limit, self.checksums, self.only, self.states)
        self._pairs.check()
        if self.text_dropout:
            self._null = self._null_text()
        if self._pairs.states:
            warn_of_rounding(self._pairs.states, self._pairs.manifest, self.source)
        self.generates = any(manifest["origin"] != "data" for manifest in self._pairs.manifests)
        self._resident = None
        return RowNumbers(self._pairs) if self.resident else self._pairs

    def check_codec(self, codec: Codec) -> None:
        check_codec(self._pairs.codec, codec, self.source)
        check_flip(self.flip, codec)

    def complete(self, batch: Any, device: torch.device) -> Pair:
        if self.resident:
            if self._resident is None:
                self._resident = copy_to(device, self._pairs)
            batch = rows_of(self._resident, batch)
        pair = restored_pair(batch)
        if self._null is not None:
            self._null = self._null.to(pair.x0.device)
            text = without_text(pair.cond["text"], self._null, self.text_dropout)
            pair = pair._replace(cond={**pair.cond, "text": text})
        return random_flip(pair) if self.flip else pair

    def _null_text(self) -> Tensor:
        if self._pairs.text is None:
            raise FlowlitError(
                f"Cached: text_dropout is {self.text_dropout}, but {self.source} have no prompts; leave it "
                "out"
            )
        return self._pairs.text.null()

    @property
    def source(self) -> str:
        return f"couplings in {self.store}"


class RowNumbers(Dataset):
    """Row numbers instead of rows, for pairs that are on the device already."""

    def __init__(self, pairs: StoredPairs):
        self.pairs = pairs
        self.shape = pairs.shape
        self.num_classes = pairs.num_classes
        self.name = pairs.name
        self.classes = pairs.classes
        self.trained_on = pairs.trained_on
        self.label_counts = pairs.label_counts
        self.text = pairs.text

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor]:
        return torch.tensor(indices)  # type: ignore[return-value]


def copy_to(device: torch.device, pairs: StoredPairs, block: int = 4096) -> Pair:
    """Copy all pairs to a device: x0 and x1 (rows, C, H, W) in the dtypes of the store.

    Raises:
        FlowlitError: if they do not fit into its free memory.
    """
    first = pairs.__getitems__([0])
    needed = len(pairs) * sum(tensor.nbytes for tensor in tree_leaves(first))
    free = free_memory(device)
    if needed > free:
        raise FlowlitError(
            f"{pairs.folders[0]}: {len(pairs)} pairs need {needed / 1e9:.1f} GB on {device}, but "
            f"{free / 1e9:.1f} GB are free; set resident: false, or a limit"
        )
    copies = tree_map(
        lambda row: torch.empty((len(pairs), *row.shape[1:]), dtype=row.dtype, device=device), first
    )
    for start in Bar(range(0, len(pairs), block), desc=f"Pairs to {device}", leave=False):
        rows = slice(start, min(start + block, len(pairs)))
        part = pairs.__getitems__(range(rows.start, rows.stop))
        tree_map(lambda copy, tensor: copy.copy_(tensor), rows_of(copies, rows), part)
    return copies
