"""Records that travel between packages, protocols, and the abstract classes that YAML names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .errors import Diverged as Diverged
from .errors import FlowlitError as FlowlitError
from .errors import NotFinite as NotFinite
from .ranges import Checked, OneLine, short_record
from .ranges.tensors import check_pair, row_number


class Diffusion(Checked, ABC):
    """Scales of data and noise in a diffusion, α x + σ ε, and the time input of its networks."""

    preserves_variance: ClassVar[bool] = True

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Smallest and largest σ / α that its networks are trained on."""

    @abstractmethod
    def time_input(self, ratio: Tensor) -> Tensor:
        """Return what networks take as time at σ / α (B,) in ``range``, (B,)."""

    def alpha(self, ratio: Tensor) -> Tensor:
        """Return α at σ / α (B,), (B,)."""
        return (1 + ratio**2).rsqrt() if self.preserves_variance else torch.ones_like(ratio)


Cond = Mapping[str, Tensor]
"""Conditions of a batch: every value has first dimension B; ``{}`` when unconditional, never None."""

Observer = Callable[[Tensor, Tensor, Tensor], None]
"""Called by a solver as ``observe(t, x, v)``, t (B,), x and v (B, C, H, W), where an accepted step starts."""


@short_record
class Pair(NamedTuple):
    """One batch drawn from a coupling."""

    x0: Tensor  # (B, C, H, W) float32: noise, t = 0
    x1: Tensor  # (B, C, H, W) float32 in about [-1, 1]: data, t = 1
    cond: Cond = {}


@short_record
class Noise(NamedTuple):
    """Batch of seeded noise; row i is a function of (seed, index[i]) alone."""

    index: Tensor  # type: ignore[assignment]  # (B,) int64
    x0: Tensor  # (B, C, H, W) float32
    cond: Cond = {}


@short_record
class Solution(NamedTuple):
    """Result of a solver, and its cost."""

    x1: Tensor  # (B, C, H, W): the far end (t = 1, or t = 0 if the solver ran in reverse)
    nfe: Tensor  # (B,) int64: network evaluations per sample, counted at the call


class VelocityField(Protocol):
    """Callable (x, t, cond) -> dx/dt: any network, guide, oracle or wrapper. See ``DescribesItself``."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor: ...


class DescribesItself(Protocol):
    """Facts that a network has about itself. Each is optional; the functions below return it or its default.

    Networks of this package have all; what one of your own lacks is not checked, reported or used.
    """

    shape: tuple[int, ...]  # (C, H, W) of x; compared with the data and the noise before any work
    num_classes: int  # of cond["label"], 0 without; compared likewise
    label_dropout: float  # probability of hiding a label in training; above 0 it works without labels, too
    reads: frozenset[str]  # names of its conditions: "label", "r" (a second time), "image", "text"
    evaluations: int  # network evaluations a call, for NFE: 2 under classifier-free guidance
    spec: dict[str, Any]  # class_path and init_args, which make its checkpoints stand alone
    loaded: dict[str, Any] | None  # its file, the hash and which of the weights, until training begins
    codec: dict[str, Any] | None  # spec of the codec of its training: the default of modules and generators
    class_names: Sequence[str] | None  # of class 0, 1, …, from the data of its training

    def checkpointable(self) -> list[nn.Module]:
        """Return the parts whose activations can be computed again for the gradient."""

    def skipping(self, names: Sequence[str]) -> Any:
        """Return a context in which parts are left out: their input passes in their place."""


def shape_of(network: Any) -> tuple[int, ...] | None:
    """Return (C, H, W) of the images of a network; None if it does not say."""
    return getattr(network, "shape", None)


def classes_of(network: Any) -> int | None:
    """Return how many labels a network has, 0 if it is unconditional; None if it does not say."""
    return getattr(network, "num_classes", None)


def label_dropout_of(network: Any) -> float | None:
    """Return how often a network is trained without its label; None if it does not say."""
    return getattr(network, "label_dropout", None)


def reads_of(network: Any) -> frozenset[str] | None:
    """Return the names of the conditions that a network reads; None if it does not say."""
    return getattr(network, "reads", None)


def evaluations_of(network: Any) -> int:
    """Return how many network evaluations a call takes; 1 if the network does not say."""
    return getattr(network, "evaluations", 1)


def loaded_of(network: Any) -> dict[str, Any] | None:
    """Return which file a network was read from; None for a fresh or trained one."""
    return getattr(network, "loaded", None)


def codec_of(network: Any) -> dict[str, Any] | None:
    """Return how to build the codec that a network was trained with; None if it does not say."""
    return getattr(network, "codec", None)


class Objective(OneLine, Checked, nn.Module, ABC):
    """Training objective; one that draws times has their distribution as ``times``, and calls ``report``."""

    observer: Callable[[Tensor, Tensor], None] | None = None
    """Called with times (B,) and losses (B,), before any weighting; must not change them."""

    keeps: frozenset[str] = frozenset()  # names of conditions that are for it, and not for its network

    def __call__(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        check_pair(pair)
        return super().__call__(velocity, pair)

    @abstractmethod
    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return scalars () by name: ``"loss"`` is required, the others are logged."""

    def conditions(self, cond: Cond) -> Cond:
        """Return those conditions (B, …) of the data that the trained network gets: all but ``keeps``."""
        return {name: value for name, value in cond.items() if name not in self.keeps}

    def on_attach(self, module: nn.Module) -> None:
        """Prepare for the module that will train with this objective, for instance to use its average."""

    def report(self, t: Tensor, loss: Tensor) -> None:
        """Pass times (B,) and losses (B,) of this batch to the observer, if there is one."""
        if self.observer is not None:
            self.observer(t.detach(), loss.detach())


class Coupling(Checked, ABC):
    """Joint law of (x0, x1), in two halves: one for data workers, one for the device."""

    simulates: bool = False
    """Whether its half on the device is work worth overlapping with training."""

    generates: bool = False
    """Whether x1 are made by a network; known once the data are open."""

    @abstractmethod
    def dataset(self) -> Dataset:
        """Open the data and return a map-style dataset; the only place where a coupling may touch the disk.

        Raises:
            FlowlitError: if something is missing or does not fit.
        """

    @abstractmethod
    def complete(self, batch: Any, device: torch.device) -> Pair:
        """Finish a collated batch on its device, without gradients: draw noise, integrate a teacher, flip."""

    def blank(self, image: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
        """Return what ``complete`` makes of a row (C, H, W) and its conditions, in shape alone."""
        return image, cond

    def check_codec(self, codec: Codec) -> None:
        """Refuse the codec of a model if these x1 are of another, naming both; called with the data open."""

    @property
    def source(self) -> str:
        """Name of the data that are read, for messages."""
        return type(self).__name__


class Solver(Checked, ABC):
    """Integrator of dx/dt = v(x, t) from t = 0 to t = 1 (or back, with ``reverse``)."""

    @abstractmethod
    def __call__(
        self,
        velocity: VelocityField,
        x0: Tensor,
        cond: Cond = {},
        *,
        observe: Observer | None = None,
        reverse: bool = False,
    ) -> Solution: ...


class Schedule(Checked, ABC):
    """Scalar as a function of the optimizer step; not to be confused with a learning-rate scheduler."""

    @abstractmethod
    def __call__(self, step: int) -> float: ...


class TimeDistribution(Checked, ABC):
    """Distribution of the training times."""

    @abstractmethod
    def __call__(self, n: int, device: torch.device | str = "cpu") -> Tensor:
        """Draw n times, (n,) float32 in [0, 1]."""


class LossWeighting(Checked, ABC):
    """Weight of a sample's loss as a function of its time."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """Return positive weights (B,) for times (B,) in [0, 1]."""


class Distance(OneLine, Checked, nn.Module, ABC):
    """Discrepancy of two images or velocities, per sample; zero for equal arguments."""

    @abstractmethod
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the discrepancies (B,) of a and b, (B, C, H, W)."""


class Codec(Checked, ABC):
    """The only border between images outside (uint8) and x1 inside (float32).

    x1 may have another shape than its image, and values outside [-1, 1] (latents). Class and fields describe
    it; one with weights holds them in ``Frozen``, their hash is ``fingerprint``, and ``spec`` builds it.
    """

    rounding: str = "as its class does"  # rule by which ``decode`` rounds, for reports
    pixels: bool = False
    """Whether x1 is the image on another scale, [-1, 1]; only such x1 may be stored as uint8."""
    forgives_noise: bool = False  # ``decode`` smooths a little noise in x1 away: solvers may stop early

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return x1 (B, c, h, w) float32 of images (B, C, H, W) uint8."""

    @abstractmethod
    def decode(self, x1: Tensor) -> Tensor:
        """Return images (B, C, H, W) uint8 of x1 (B, c, h, w) float32."""

    def encoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (c, h, w) of x1 for images of a shape (C, H, W)."""
        return tuple(self.encode(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1:])

    def decoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (C, H, W) of images for x1 of a shape (c, h, w)."""
        return tuple(self.decode(torch.zeros(1, *shape)).shape[1:])


class Source(Checked, Dataset, ABC):
    """Start of generation: row i, x0 and its conditions, is a function of the source and i alone."""

    shape: tuple[int, ...]
    """(C, H, W) of x0."""

    num_classes: int = 0
    """Classes of ``cond["label"]``; 0 without labels."""

    seed: int = 0
    """Seed of all draws; recorded for every stored pair, so that none is made twice."""
    standard_normal: bool = False
    """Whether x0 ~ N(0, I); stores are then checked for it before training."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Sequence[int]) -> Noise:
        """Return rows as one batch: index (B,), x0 (B, C, H, W), and conditions (B, …)."""

    @abstractmethod
    def first(self, num: int) -> Source:
        """Return the same source with ``num`` rows, which may be more than there were."""

    @abstractmethod
    def reseeded(self, seed: int) -> Source:
        """Return the same source with other draws, as ``flowlit couple --seed`` takes them."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return plain data that decide about every row, without their number, for reports and manifests."""

    def labels_of(self, counts: Sequence[int]) -> dict[str, Any] | None:
        """Return facts about the labels of a store with ``counts`` rows after each growth; None without."""
        return {"num_classes": self.num_classes, "law": "of the source"} if self.num_classes else None

    def __getitem__(self, index: int) -> Noise:
        noise = self.batch([row_number(index, len(self))])
        return Noise(noise.index[0], noise.x0[0], {key: value[0] for key, value in noise.cond.items()})


class ImageDataset(Checked, Dataset, ABC):
    """Set of real images: item i is ``{"x1": uint8 (C, H, W), "cond": {"label": int64 ()} or {}}``."""

    classes: tuple[str, ...] | None = None  # names of class 0, 1, …; None without labels or without names

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def label_counts(self) -> Mapping[int, int] | None:
        """Return how many images each class that occurs has; None where that is not known at once."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name of the content, for caches: two sets with the same fingerprint have the same images."""

    def summary(self) -> str:
        """Return a line on what was left out or changed when the images were read; empty if nothing was."""
        return ""

    def facts(self) -> dict[str, Any]:
        """Return how the images were read, for protocols."""
        return {}


class EMAProfile(Checked, ABC):
    """Decay of an average of weights."""

    @abstractmethod
    def __call__(self, updates: int, batch_size: int) -> float:
        """Return the share that stays, in [0, 1], at an update (from 1) by steps of ``batch_size`` images."""
