"""The inputs of networks: times and conditions, refused or embedded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import Checked
from ..types import Cond
from .layers import LabelEmbedding, SecondTime, TimeEmbedding
from .skipping import skipping

Second = bool | Literal["decoder"]
"""Whether a network reads a second time, and how."""


class ConditionalNetwork(Checked, nn.Module):
    """A network of a time, and of the conditions in ``reads``: a label, and the second time of a flow map.

    A flow map u(x, t, r) is the average velocity from t to r: the flow that passes x at time t arrives at
    x + (r - t) u at time r. A network with a second time reads r in ``cond["r"]``; without it r = t, and u is
    the velocity. A fresh second time adds nothing: with the weights of a velocity, u(x, t, r) = v(x, t).

    ``second_time: decoder`` has no weights: the first part of the network has the time t, and the second, the
    decoder, r in its place (Decoupled MeanFlow, 2510.24474). With the weights of a velocity, u(x, t, t) =
    v(x, t); for other r it has to be trained before it is of use.
    """

    shape: tuple[int, int, int]
    time: TimeEmbedding  # None where it is folded away
    label: LabelEmbedding | None
    second_time: nn.Module | None
    early_label: bool = False
    tells_decoder: bool = False
    """Whether r has the place of t in the decoder, and the units of t: wrappers convert both alike."""

    def add_second_time(self, width: int, dim: int, how: Second) -> None:
        """Add the embedding of r, of ``width`` sines and ``dim`` numbers, if ``how`` is True.

        Call it last in a constructor: the random draws of all other layers are the same with and without.
        """
        self.register_module("second_time", SecondTime(width, dim) if how is True else None)
        self.tells_decoder = how == "decoder"

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions that the network reads."""
        parts = {"label": self.label is not None, "r": self.second_time is not None or self.tells_decoder}
        return frozenset(name for name, read in parts.items() if read)

    def skipping(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Leave parts out in the calls inside; see ``skipping``."""
        return skipping(self, names)

    def embed(self, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """Check the inputs x (B, C, R, R), t (B,) and cond; embed times and label, after a SiLU: (B, e).

        Return it twice, for the encoder and for the decoder, whose time may be another.

        Raises:
            FlowlitError: for images that the network was not built for, and conditions that it does not read.
        """
        self._check_input(x, t, cond)
        label = None if self.label is None else self.label(cond.get("label"), x.shape[0], x.device)
        if self.time is None:  # see ``folding``: rows of the blocks' tables, or embeddings
            rows = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if label is None else label
            return rows, rows
        embedding = self._embed_time(t, label)
        if self.second_time is not None:
            embedding = embedding + self.second_time(cond.get("r", t))
        start = F.silu(embedding)
        if self.tells_decoder and "r" in cond:
            return start, F.silu(self._embed_time(cond["r"], label))
        return start, start

    def _embed_time(self, t: Tensor, label: Tensor | None) -> Tensor:
        if label is None or self.early_label:
            return self.time(t, label)
        return self.time(t) + label

    def _check_input(self, x: Tensor, t: Tensor, cond: Cond) -> None:
        name = type(self).__name__
        check_times(name, "times", t, x.shape[0])  # and not len(x), which an exported network would fix
        unknown = sorted(set(cond) - self.reads - {"label"})
        if unknown:
            names = " and ".join(map(repr, sorted(self.reads | {"label"})))
            mend = "; give it second_time: true" if "r" in unknown else ""
            raise FlowlitError(
                f"{name}: cond has {', '.join(unknown)}, but this network looks at nothing but {names}{mend}"
            )
        shape = tuple(x.shape[1:])
        if shape != self.shape:
            raise FlowlitError(f"{name}: built for images of shape {self.shape}, found {shape}")
        if "label" in cond and "label" not in self.reads:
            raise FlowlitError(
                f"{name}: cond has labels, but the network is unconditional. Give it num_classes, or drop "
                "the labels: labels: false for the images, num_classes: 0 for the noise"
            )
        if "r" in cond:
            check_times(name, "second times r", cond["r"], x.shape[0])


def check_times(name: str, what: str, t: Tensor, batch: int) -> None:
    """Refuse times that are not (B,).

    Raises:
        FlowlitError: saying what was found.
    """
    if not isinstance(t, Tensor) or t.shape != (batch,):
        shown = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
        raise FlowlitError(f"{name}: expected {what} (B,), one for each image of {batch}, found {shown}")
