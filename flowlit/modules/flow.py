"""The matchmaker: introduces a network to an objective, and a network to a solver."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypedDict

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .._engine.lightning import trainer_of
from .._support.batch_invariance import BatchInvariant
from .._support.files import file_hash
from ..data import Pixels
from ..errors import Diverged, FlowlitError, NotFinite
from ..networks.checkpoints.fingerprint import fingerprint, identity
from ..networks.checkpoints.spec import build, spec
from ..solvers import RK45, Euler
from ..types import (
    Codec,
    Noise,
    Objective,
    Pair,
    Solution,
    Solver,
    classes_of,
    codec_of,
    label_dropout_of,
    loaded_of,
    shape_of,
)
from .base import CheckpointedModule, _configured


class Generated(TypedDict):
    """What a validation or test step hands to the callbacks."""

    noise: Noise
    solutions: dict[str, Solution]


def check_names(solvers: dict[str, Solver]) -> None:
    """Refuse names of solvers that could not stand in tags and names of files.

    Raises:
        FlowlitError: naming the first that cannot.
    """
    for name in solvers:
        if not re.fullmatch(r"[\w.-]+", name) or name in ("sum", "mean", "rms", "per_dimension", "train"):
            raise FlowlitError(
                f"solver {name!r}: its name becomes part of tags; use letters, digits, _ . - (and no word "
                "like sum)"
            )


class FlowModule(CheckpointedModule):
    """Train a velocity network, and generate with it in validation.

    Beside ``network`` stands ``ema``, its exponential moving average: updated by the ``EMA`` callback, saved
    and loaded with everything else, and used for generation as soon as it has been updated. Further ``EMA``
    callbacks keep theirs in ``averages`` while training; of a checkpoint that holds several, the chosen one
    is read into ``ema``.

    Args:
        network: an nn.Module called as (x, t, cond).
        objective: what to train it for.
        optimizer: called with the network's parameters; Adam with the papers' settings by default.
        lr_scheduler: called with the optimizer, stepped after each optimizer step.
        solvers: by name, for validation; ``predict``, ``couple`` and ``flowlit.load`` use the first.
        codec: between x1 and images; None is that of the checkpoint that the network was read from, or
            ``Pixels``.
        weights: which ones generate: "ema", "raw", or the name of another ``EMA`` callback.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=2e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        solvers: dict[str, Solver] | None = None,
        codec: Codec | None = None,
        weights: str = "ema",
    ):
        super().__init__(network, optimizer, lr_scheduler)
        self.objective = objective
        self.solvers = self._first_solvers = solvers or {"rk45": RK45(), "euler1": Euler(1)}
        described = codec_of(network)
        self.codec = codec or (build(described, Codec) if described else Pixels())
        self.ema = deepcopy(network).requires_grad_(False).eval()
        self.averages = nn.ModuleDict()  # others than "ema", by name, while training
        self.averaged: dict[
            str, dict[str, Any]
        ] = {}  # of "ema" and these, where kept: how, and the updates so far
        self.weights = weights
        self.objective.on_attach(self)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        check_names(self.solvers)
        if stage == "fit":  # from now on the weights are not those of the file that they were read from
            self.check_weights()
            for network in (self.network, self.ema, *self.averages.values()):
                network.loaded = None  # type: ignore[assignment]
        data = getattr(self.trainer, "datamodule", None)
        for source in (getattr(data, "noise", None), getattr(data, "pairs", None)):
            if source is not None and hasattr(source, "shape"):
                self.check_rows(
                    tuple(source.shape), source.num_classes, getattr(source, "name", "data.noise")
                )

    def check_rows(self, shape: tuple[int, ...], num_classes: int, source: str) -> None:
        """Compare what the network tells of itself (``shape``, ``num_classes``) with the rows it is to work
        on.

        Raises:
            FlowlitError: before any work, instead of at the first step or validation.
        """
        name = type(self.network).__name__
        own = shape_of(self.network) or shape
        classes = classes_of(self.network)
        if classes is None:
            classes = num_classes
        if tuple(own) != shape:
            raise FlowlitError(
                f"{name} takes images of shape {tuple(own)}, but the shape of {source} is {shape}; make "
                "them equal"
            )
        blind = classes and not num_classes and not label_dropout_of(self.network)
        if blind or (num_classes and classes != num_classes):
            raise FlowlitError(
                f"{name} knows {classes} classes, but num_classes of {source} is {num_classes}; make them "
                "equal"
            )

    def train(self, mode: bool = True) -> FlowModule:
        super().train(mode)
        self.ema.eval()
        self.averages.eval()
        return self

    @property
    def ema_updates(self) -> int:
        """Updates of ``ema`` so far; 0 says that it is no average."""
        return self.averaged.get("ema", {}).get("updates", 0)

    @ema_updates.setter
    def ema_updates(self, updates: int) -> None:
        self.averaged.setdefault("ema", {})["updates"] = updates

    def average(self, name: str) -> nn.Module:
        """The average of a name: "ema", or one of ``averages`` where it is kept, or ``ema`` where it was read
        into that.
        """
        if name in self.averages:
            return self.averages[name]
        return self.ema

    def average_facts(self, name: str) -> dict[str, Any]:
        """How an average was taken, and over how many updates; {} if there is none, and for "raw"."""
        told = {} if name == "raw" else self.averaged.get(name if name in self.averages else "ema", {})
        return dict(told) if told.get("updates") else {}

    def generating(self) -> str:
        """Name of the weights that generate: those chosen, "raw" as long as these are no average."""
        return self.weights if self.average_facts(self.weights) else "raw"

    def check_weights(self) -> None:
        """Refuse weights that are neither kept nor read.

        Raises:
            FlowlitError: naming those that are.
        """
        if self.weights not in (known := ["ema", "raw", *self.averages]):
            raise FlowlitError(
                f"weights is {self.weights!r}; expected {' or '.join(map(repr, known))}: in fit, a name of "
                "an EMA callback, "
                "otherwise one that the checkpoint holds (--ckpt_path)"
            )

    def networks(self) -> list[nn.Module]:
        return [self.network, self.ema, *self.averages.values()]

    def velocity(self) -> nn.Module:
        """The network to generate with: the chosen average once there is one, the trained network
        otherwise.
        """
        if not self.ema_updates:  # or the chosen one may have been read into ema
            self.check_weights()
        chosen = self.generating()
        return self.network if chosen == "raw" else self.average(chosen)

    def solve(self, solver: str, noise: Noise, reverse: bool = False) -> Solution:
        """Integrate the velocity from a batch of noise (in reverse: of data) with a named solver."""
        return self.solvers[solver](BatchInvariant(self.velocity()), noise.x0, noise.cond, reverse=reverse)

    def check_pair(self, pair: Pair) -> None:
        """Refuse a pair without what the network reads."""
        if classes_of(self.network) and "label" not in pair.cond:
            raise FlowlitError(
                f"{type(self.network).__name__} knows {self.network.num_classes} classes, but the training "
                "data brings no "
                "labels; give them (labels: true for images), or num_classes: 0"
            )

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        self.check_pair(pair)
        parts = self.objective(self.network, pair)
        self.log_training(parts, len(pair.x1))
        return parts["loss"]

    def validation_step(self, noise: Noise, batch_idx: int) -> Generated:
        try:
            return {"noise": noise, "solutions": {name: self.solve(name, noise) for name in self.solvers}}
        except NotFinite as error:
            if self.trainer.state.fn != "fit":
                raise
            raise Diverged(
                f"step {self.global_step}: training has diverged ({error}); lower the learning rate, or add "
                "flowlit.callbacks.Rollback"
            ) from error

    test_step = validation_step

    def predict_step(self, noise: Noise, batch_idx: int) -> tuple[Noise, Solution]:
        """Generate from a batch of noise with the first solver."""
        return noise, self.solve(next(iter(self.solvers)), noise)

    def provenance(self) -> dict[str, Any]:
        """Say who makes pairs, for a manifest: hash and size of the network in use, and the solver with its
        fields.
        """
        network = self.velocity()
        return {
            "teacher": {
                "sha256": fingerprint(network),
                "parameters": sum(p.numel() for p in network.parameters()),
            },
            "solver": dict(
                self._solver_spec() or {"class_path": type(next(iter(self.solvers.values()))).__qualname__}
            ),
        }

    def generation(self) -> dict[str, Any]:
        """Say what turns noise into images, for reports: weights, solvers with their fields, and codec."""
        return {
            "network": identity(self.velocity()),
            "solvers": {
                name: self._solver_spec(name) or identity(solver) for name, solver in self.solvers.items()
            },
            "codec": spec(self.codec) or identity(self.codec),
            "rounding": self.codec.rounding,
        }

    def loaded_from(self, ckpt_path: str | None = None) -> dict[str, Any] | None:
        """Name the file that the velocity was read from, its hash, and which of its weights; None for a fresh
        network.
        """
        if ckpt_path is None:
            return loaded_of(self.velocity())
        # not a folder, nor a URL
        kind = self.generating()
        known = Path(ckpt_path).is_file()
        told = {"file": str(ckpt_path), "sha256": file_hash(ckpt_path) if known else None, "weights": kind}
        return told if kind == "raw" else {**told, "ema": self.average_facts(kind)}

    def _solver_spec(self, name: str | None = None) -> dict[str, Any] | None:
        """How to build a solver again; by default the first, which generates and makes pairs."""
        name = name or next(iter(self.solvers))
        own = self.solvers is self._first_solvers  # others may have taken their place
        configured = self.hparams.get("solvers") if own else {}
        return spec(self.solvers[name]) or _configured(configured or {}, name)

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "ema_updates": self.ema_updates,
            "ema": self.average_facts("ema"),
            "averages": {name: self.average_facts(name) for name in self.averages},
            "solver": self._solver_spec(),
            "codec": spec(self.codec) or _configured(self.hparams, "codec") or codec_of(self.network),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        held = averages_of(checkpoint)
        trainer = trainer_of(self)
        if trainer is not None and trainer.state.fn == "fit":
            self._check_averages(held, checkpoint)
        elif not self.averages:
            held = self._choose(held, checkpoint)
        self.averaged = {name: {"updates": 0, **held.get(name, {})} for name in {**self.averaged, **held}}

    def _check_averages(self, held: dict[str, dict[str, Any]], checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with other averages than before.

        Raises:
            FlowlitError: naming both.
        """
        kept = (
            held.keys() | checkpoint.get("averages_waiting", {}).keys()
        )  # the latter may not have moved yet
        if checkpoint.get("global_step") and kept != self.averaged.keys():
            raise FlowlitError(
                f"the averages of the checkpoint are {join_names(kept)}, those of the EMA callbacks "
                f"{join_names(self.averaged)}; "
                "go on with the config.yaml beside it, or start a new run from its weights "
                "(flowlit.networks.pretrained)"
            )

    def _choose(
        self, held: dict[str, dict[str, Any]], checkpoint: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """Put the chosen average of a checkpoint in the place of ``ema``, drop the others, and return what is
        told of it.

        Raises:
            FlowlitError: naming those that it holds.
        """
        if self.weights not in ("ema", "raw", *held):
            raise FlowlitError(
                f"weights is {self.weights!r}, but the checkpoint holds {join_names(['raw', *held])}"
            )
        state = checkpoint["state_dict"]
        chosen = self.weights if self.weights in held else "ema"
        others = {key: state.pop(key) for key in list(state) if key.startswith("averages.")}
        prefix = f"averages.{chosen}."
        state.update(
            {
                f"ema.{key.removeprefix(prefix)}": value
                for key, value in others.items()
                if key.startswith(prefix)
            }
        )
        return {"ema": held[chosen]} if chosen in held else {}


def averages_of(checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The averages that a checkpoint holds, by name: how each was taken, and its updates."""
    facts = checkpoint.get("flowlit", {})
    updates = facts.get("ema_updates", 0)
    own = {"ema": {**(facts.get("ema") or {}), "updates": updates}} if updates else {}
    return {**own, **(facts.get("averages") or {})}


def join_names(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(sorted(names)) or "none"
