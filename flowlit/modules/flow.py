"""The matchmaker: introduces a network to an objective, and a network to a solver."""

from __future__ import annotations

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
from ..solvers.base import check_solvers, unchecked
from ..types import (
    Codec,
    Noise,
    Objective,
    Observer,
    Pair,
    Solution,
    Solver,
    classes_of,
    codec_of,
    label_dropout_of,
    loaded_of,
    shape_of,
)
from .averages import Averages
from .base import CheckpointedModule, configured
from .classes import check_classes
from .provenance import warn_of_memorising
from .trial import check_conditions, try_on_training_data


class Generated(TypedDict):
    """Output of a validation or test step, for the callbacks."""

    noise: Noise
    solutions: dict[str, Solution]


class FlowModule(CheckpointedModule):
    """Train a velocity network, and generate with it in validation.

    Beside ``network`` stands ``ema``, its exponential moving average: updated by the ``EMA`` callback, saved
    and loaded with everything else, and used for generation as soon as it has been updated. Further ``EMA``
    callbacks keep theirs in ``averages`` while training.

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
        default: dict[str, Solver] = {"rk45": RK45(), "euler1": Euler(1)}
        self.solvers = self._first_solvers = default if solvers is None else solvers
        described = codec_of(network)
        self.codec = codec or (build(described, Codec) if described else Pixels())
        check_solvers(self.solvers, self.codec)
        averages = Averages(network, weights)
        self.ema = averages.ema
        self.averages = averages
        self.objective.on_attach(self)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        check_solvers(self.solvers, self.codec)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            self.averages.check_choice()
            # from now on their weights are not those of the file they came from
            for network in self.networks():
                network.loaded = None  # type: ignore[assignment]
            check_classes(self.network, data)
            warn_of_memorising(self.trainer)
        for source in (getattr(data, "noise", None), getattr(data, "pairs", None)):
            if source is not None and hasattr(source, "shape"):
                name = getattr(source, "name", "data.noise")
                check_rows(self.network, tuple(source.shape), source.num_classes, name)

    def on_fit_start(self) -> None:
        try_on_training_data(self)

    def train(self, mode: bool = True) -> FlowModule:
        super().train(mode)
        for average in self.averages.networks():
            average.eval()
        return self

    def networks(self) -> list[nn.Module]:
        return [self.network, *self.averages.networks()]

    def velocity(self) -> nn.Module:
        """Return the network to generate with: the chosen average once there is one, or the trained one."""
        return self.averages.pick(self.network)

    def solve(
        self, solver: str, noise: Noise, reverse: bool = False, observe: Observer | None = None
    ) -> Solution:
        """Integrate the velocity from noise (B, C, H, W), or from data in reverse, with a named solver."""
        velocity = BatchInvariant(self.velocity())
        try:
            return self.solvers[solver](velocity, noise.x0, noise.cond, observe=observe, reverse=reverse)
        except NotFinite as error:
            raise NotFinite(f"{solver}: {error}") from error

    def training_step(self, pair: Pair, batch_idx: int) -> Tensor:
        """Return the objective's loss of a pair, a scalar."""
        check_conditions(self.network, pair.cond)
        with unchecked():  # callbacks look at the loss and its gradients
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
        """Return what makes pairs, for a manifest: hash and size of the network in use, and the solver."""
        network = self.velocity()
        solver = self._solver_spec() or {"class_path": type(next(iter(self.solvers.values()))).__qualname__}
        size = sum(parameter.numel() for parameter in network.parameters())
        return {"teacher": {"sha256": fingerprint(network), "parameters": size}, "solver": dict(solver)}

    def generation(self) -> dict[str, Any]:
        """Return what turns noise into images, for reports: weights, solvers with their fields, and codec."""
        solvers = {name: self._solver_spec(name) or identity(solver) for name, solver in self.solvers.items()}
        return {
            "network": identity(self.velocity()),
            "solvers": solvers,
            "codec": spec(self.codec) or identity(self.codec),
            "rounding": self.codec.rounding,
        }

    def loaded_from(self, ckpt_path: str | None = None) -> dict[str, Any] | None:
        """Return the velocity's file, its hash, and which of its weights; None for a fresh network."""
        if ckpt_path is None:
            return loaded_of(self.velocity())
        weights = self.averages.generating()
        is_file = Path(ckpt_path).is_file()  # not a folder, nor a URL
        source = {"file": str(ckpt_path), "sha256": file_hash(ckpt_path) if is_file else None}
        average = {} if weights == "raw" else {"ema": self.averages.describe(weights)}
        return {**source, "weights": weights, **average}

    def _solver_spec(self, name: str | None = None) -> dict[str, Any] | None:
        """Return how to build a solver again; by default the first, which generates and makes pairs."""
        name = name or next(iter(self.solvers))
        own = self.solvers is self._first_solvers  # others may have taken their place
        given = self.hparams.get("solvers") if own else {}
        return spec(self.solvers[name]) or configured(given or {}, name)

    def facts(self) -> dict[str, Any]:
        codec = spec(self.codec) or configured(self.hparams, "codec") or codec_of(self.network)
        return {**super().facts(), **self.averages.facts(), "solver": self._solver_spec(), "codec": codec}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        trainer = trainer_of(self)
        training = trainer is not None and trainer.state.fn == "fit"
        self.averages.read_checkpoint(checkpoint, training)


def check_rows(network: nn.Module, shape: tuple[int, ...], num_classes: int, source: str) -> None:
    """Compare a network's shape and classes with those of the rows that it is to work on.

    Raises:
        FlowlitError: before any work, instead of at the first step or validation.
    """
    name = type(network).__name__
    own = shape_of(network) or shape
    classes = classes_of(network)
    if classes is None:
        classes = num_classes
    if tuple(own) != shape:
        raise FlowlitError(
            f"{name} takes images of shape {tuple(own)}, but the shape of {source} is {shape}; make them "
            "equal"
        )
    unlabelled = classes and not num_classes and not label_dropout_of(network)
    if unlabelled or (num_classes and classes != num_classes):
        raise FlowlitError(
            f"{name} knows {classes} classes, but num_classes of {source} is {num_classes}; make them equal"
        )
