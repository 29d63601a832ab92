"""A second trained network: a generator and its critic, which are trained in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from .. import rng
from .._engine.lightning import accumulated_batches
from .._engine.ranks import average_gradients, without_synchronisation
from .._engine.sharding import scatter
from ..errors import FlowlitError
from ..objectives import TwoPlayerObjective
from ..objectives.score_distillation import ScoreDistillation
from ..ranges import Checked, Fraction, PositiveInt
from ..ranges.tensors import check_pair
from ..types import Objective, Pair
from .flow import FlowModule
from .inheritance import check_alike, inherit
from .provenance import check_guide
from .rollouts import check_solvers
from .trial import check_conditions, check_same_classes, try_game


class Critic(Checked, nn.Module):
    """A network that is trained beside the generator, and follows what the generator makes.

    In score distillation it is a velocity of the generator's samples, in a game against real images their
    discriminator.

    Args:
        network: called by the module's objective, or as a velocity (x, t, cond) if ``objective`` is given; a
            copy of the guide (``flowlit.networks.pretrained``) in score distillation.
        objective: trains the network as a velocity on pairs of fresh noise and the generator's samples:
            ``RectifiedFlow`` in score distillation. None leaves it to the ``critic_loss`` of the module's
            objective.
        optimizer: called with the network's parameters.
        lr_scheduler: called with the optimizer, stepped after each update of the critic.
        updates: of the critic for each update of the generator, which comes last: 5 in DMD2, 1 in SiD. Each
            takes a batch of its own.
        inheritance: share of the generator's weights that the critic takes over after each update of the
            generator, to follow it with fewer updates of its own: 0.03 in Flash-DMD (2511.20549). Both need
            the same architecture, beside the head of a ``flowlit.networks.Discriminator``.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=2e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        updates: PositiveInt = 1,
        inheritance: Fraction = 0.0,
    ):
        super().__init__()
        self.network = network
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self.updates = updates
        self.inheritance = inheritance
        if objective is not None:
            objective.on_attach(self)


class CriticModule(FlowModule):
    """Train a generator against a critic, by turns: some updates of the critic, then one of the generator.

    A step is an update of the generator, for ``max_steps``, ``val_check_interval`` and all callbacks; the
    averages are those of the generator. Each update takes ``data.batch_size`` rows of its own, over all
    devices, in parts if ``data.device_batch_size`` says so; a batch of Lightning's is one part of one update.
    The network whose turn it is not gets no gradients, and any strategy serves: ``ddp`` without a search for
    unused parameters, and ``sharded``. A network at a rate of 0 waits (``WarmUp``): its optimizer begins
    after that, with no moments of the gradients before.

    ``train/loss`` is the generator's loss, ``train/critic_loss`` the mean of the critic's in the step. Clip
    and repair gradients with the ``Gradients`` callback, which sees one network at a time.

    Args:
        network: the generator.
        objective: what both are trained for.
        critic: the second network, and how it is trained.
        options: as ``FlowModule``.
    """

    objective: TwoPlayerObjective
    trains_flow = False
    took_batches: int = 0
    """Batches of a step in the fit that ended, for checkpoints of after it; 0 before that, and in a fit."""

    def __init__(self, network: nn.Module, objective: TwoPlayerObjective, critic: Critic, **options: Any):
        super().__init__(network, objective, **options)
        for part in objective.modules():
            if isinstance(part, ScoreDistillation):
                check_guide(part.guide.network, type(part).__name__)
                check_same_classes(network, part.guide.network, "guide")
        check_same_classes(network, critic.network, "critic")
        self.automatic_optimization = False
        self.critic = critic
        self._counts_in_steps = False
        if critic.inheritance:
            check_alike(network, critic.network)
        objective.on_attach(self)  # again, with the critic in its place

    @property
    def global_batches(self) -> int:
        """Batches of ``data.batch_size`` that a step takes."""
        return self.critic.updates + 1

    def players(self) -> list[Any]:
        return [self, self.critic]

    def configurations(self, hparams: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [hparams, (hparams.get("critic") or {}).get("init_args", {})]

    def networks(self) -> list[nn.Module]:
        return [*super().networks(), self.critic.network]

    def setup(self, stage: str) -> None:
        self.took_batches = 0
        super().setup(stage)
        if stage == "fit":
            check_images(self.objective, self.trainer)
            check_solvers(self.objective, self.solvers)
            count_in_steps(self.trainer, self.global_batches)
            self._counts_in_steps = True

    def on_fit_start(self) -> None:
        super().on_fit_start()
        try_game(self)

    def teardown(self, stage: str) -> None:
        if stage == "fit" and self._counts_in_steps:
            self.took_batches = self.trainer.accumulate_grad_batches
            count_in_batches(self.trainer)
            self._counts_in_steps = False

    def training_step(self, pair: Pair, batch_idx: int) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the loss of the network whose turn it is, ()."""
        check_conditions(self.network, pair.cond)
        check_pair(pair)
        parts = accumulated_batches(self.trainer)
        turn, part = divmod(batch_idx % (parts * self.global_batches), parts)
        critics_turn = turn < self.critic.updates
        optimizer = self.optimizers()[critics_turn]  # type: ignore[index]
        if part == 0:
            self.zero_grad()
        with self._training_only(optimizer):
            losses = self.critic_losses(pair) if critics_turn else self.generator_losses(pair)
            with without_synchronisation(self.trainer):
                self.manual_backward(losses["loss"] / parts)
        if part == parts - 1:
            self._update(optimizer)
            if not critics_turn and self.critic.inheritance:
                self._scatter()
                inherit(self.network, self.critic.network, self.critic.inheritance)
        prefix = "critic_" if critics_turn else ""
        self.log_training({f"{prefix}{name}": value for name, value in losses.items()}, len(pair.x1))
        return {f"{prefix}loss": losses["loss"].detach()}

    def generator_losses(self, pair: Pair) -> dict[str, Tensor]:
        """Losses () of the generator by name."""
        return self.objective.student_loss(self.network, self.critic.network, pair)

    def critic_losses(self, pair: Pair) -> dict[str, Tensor]:
        """Losses () of the critic by name."""
        if self.critic.objective is None:
            return self.objective.critic_loss(self.network, self.critic.network, pair)
        with torch.no_grad():
            samples = self.objective.sample(self.network, pair)
        return self.critic.objective(self.critic.network, Pair(rng.randn_like(samples), samples, pair.cond))

    @contextmanager
    def _training_only(self, optimizer: Any) -> Iterator[None]:
        """Let only the parameters of one optimizer get gradients."""
        self._scatter()
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def _scatter(self) -> None:
        if self.device_mesh is not None:
            for player in self.players():
                scatter(player.network)  # what is still gathered has parameters of its own

    def _update(self, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(self.trainer, parameters)
        optimizer.step()
        if all(group["lr"] == 0 for group in optimizer.param_groups):
            optimizer.optimizer.state.clear()  # it waits; Adam would divide later steps by these gradients
        for config in self.trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer.optimizer:
                config.scheduler.step()


def check_images(objective: TwoPlayerObjective, trainer: pl.Trainer) -> None:
    """Refuse pairs of a teacher where an objective takes their x1 for real images.

    Raises:
        FlowlitError: naming both.
    """
    coupling = getattr(getattr(trainer, "datamodule", None), "coupling", None)
    if objective.reads_images and getattr(coupling, "generates", False):
        raise FlowlitError(
            f"{type(objective).__name__} compares with real images, but those of "
            f"{type(coupling).__name__} are made by a network; train on "
            "{class_path: flowlit.couplings.Independent, init_args: {images: …}} at data.coupling"
        )


def count_in_steps(trainer: pl.Trainer, global_batches: int) -> None:
    """Let the intervals and limits of a trainer be in steps of several global batches, and not in batches.

    Lightning refuses accumulation with manual optimisation when a fit begins, so it is set up later.
    """
    trainer.accumulate_grad_batches *= global_batches
    if isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval *= global_batches  # the data module did so for accumulated batches
    if isinstance(trainer.limit_train_batches, int):
        trainer.limit_train_batches *= trainer.accumulate_grad_batches


def count_in_batches(trainer: pl.Trainer) -> None:
    """Take back ``count_in_steps``, and the accumulation that the data module set up."""
    if isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval //= trainer.accumulate_grad_batches
    if isinstance(trainer.limit_train_batches, int):
        trainer.limit_train_batches //= trainer.accumulate_grad_batches
    trainer.accumulate_grad_batches = 1
