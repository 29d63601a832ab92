"""A LightningModule whose checkpoints say how its network is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from .._engine.lightning import (
    count_first_optimizer,
    is_accumulating,
    is_built_from_configuration,
    is_logging_step,
    trainer_of,
)
from .._engine.sharding import gather, parts, scatter, shard
from .._support.names import in_current_names
from .._support.nested import flatten
from .._version import __version__
from ..data.classes import class_names_of
from ..data.provenance import trained_on
from ..errors import FlowlitError
from ..generators.prompts import text_encoder_of, text_facts
from ..networks.checkpoints.demands import check_network, check_trainable
from ..networks.checkpoints.load import mismatch
from ..networks.checkpoints.spec import spec, summarise
from ..networks.checkpoints.tensors import check_finite
from ..ranges import Checked
from .averages import without_averages
from .classes import compare_with_checkpoint, take_names
from .moments import check_moments
from .optimizers import optimizer_of
from .overrides import override
from .provenance import compare_data, take_data
from .text import check_encoder, take_text


class CheckpointedModule(Checked, pl.LightningModule):
    """A module whose checkpoints describe its network, and refuse another architecture with a clear error."""

    network: nn.Module

    trains_flow: bool = True
    """Whether the network is trained at all times, and not as a generator alone."""

    def __init__(
        self, network: nn.Module, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None
    ):
        super().__init__()
        if is_built_from_configuration():
            self.save_hyperparameters()
        check_network(network)
        self.network = network
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self._losses: dict[str, list[Tensor]] = {}
        self._loss_on_bar = True

    def configure_optimizers(self) -> Any:
        return [optimizer_of(player) for player in self.players()]

    def players(self) -> list[Any]:
        """Return the objects that have a ``network`` to train, ``make_optimizer`` and ``make_scheduler``."""
        return [self]

    def setup(self, stage: str) -> None:
        """Set train mode in fit, also for a network of ``pretrained``, which returns it in eval mode."""
        self._losses = {}
        self._loss_on_bar = True
        if stage == "fit":
            count_first_optimizer(self.trainer)
            for player in self.players():
                check_trainable(player.network)
                player.network.train()
        data = getattr(self.trainer, "datamodule", None)
        take_names(self.network, data, stage == "fit")
        if stage == "fit":
            take_text(self, data)
        else:
            check_encoder(text_encoder_of(self.network), getattr(data, "noise", None))
        if stage == "fit" and self.trainer.is_global_zero:  # which writes checkpoints
            take_data(self.network, data, self.trains_flow, getattr(self, "objective", None))

    def networks(self) -> list[nn.Module]:
        """Return all networks that are trained or averaged."""
        return [self.network]

    def velocity(self) -> nn.Module:
        """Return the network that validation uses."""
        return self.network

    def configure_model(self) -> None:
        """Divide the networks among the devices, if the strategy does that (``Sharded``); only in fit."""
        if self.device_mesh is not None and self.trainer.state.fn == "fit" and not parts(self.network):
            for network in self.networks():
                shard(network, self.device_mesh["data_parallel"])

    def on_validation_start(self) -> None:
        gather(self.velocity())

    def on_validation_end(self) -> None:
        scatter(self.velocity())

    def keep_loss_from_bar(self) -> None:
        """Hand no loss to the progress bar in this fit: it reads the logged one, where it waits for a GPU."""
        self._loss_on_bar = False

    def log_training(self, losses: dict[str, Tensor], rows: int) -> None:
        """Log the losses of a batch, scalars by name, once its step is over.

        Logged are the means over the accumulated batches and, where a logger takes them, over all devices.
        """
        trainer = self.trainer
        for name, value in losses.items():
            self._losses.setdefault(name, []).append(value.detach().float())
        if is_accumulating(trainer):
            return
        names = list(self._losses)
        means = torch.stack([torch.stack(values).mean() for values in self._losses.values()])
        self._losses = {}
        if trainer.world_size > 1 and is_logging_step(trainer):
            means = trainer.strategy.reduce(means, reduce_op="mean")
        on_bar = self._loss_on_bar and trainer.progress_bar_callback is not None  # in every step
        for name, value in zip(names, means, strict=True):
            self.log(f"train/{name}", value, prog_bar=on_bar and name == "loss", batch_size=rows)

    def facts(self) -> dict[str, Any]:
        """Return the entries of a checkpoint that ``flowlit.load`` and ``pretrained`` need."""
        network = spec(self.network) or configured(self.hparams, "network")
        names = class_names_of(self.network)
        images = trained_on(self.network)
        classes = {} if names is None else {"class_names": list(names)}
        data = {} if images is None else {"data": images}
        text = text_facts(self.network)
        return {"version": __version__, "network": network, **classes, **data, **text}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["flowlit"] = self.facts()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        difference = mismatch(*map(without_averages, (self.state_dict(), checkpoint["state_dict"])))
        if difference:
            network = checkpoint.get("flowlit", {}).get("network")
            raise FlowlitError(
                f"the checkpoint is of another architecture than this {type(self).__name__}: {difference}. "
                "Take the config.yaml beside it, or start afresh without --ckpt_path"
                + (f". It holds {summarise(network)}" if network else "")
            )
        check_finite(checkpoint["state_dict"], self, "the checkpoint")
        trainer = trainer_of(self)
        training = trainer is None or trainer.state.fn in (None, "fit")
        fitting = trainer is not None and trainer.state.fn == "fit"
        compare_with_checkpoint(self.network, checkpoint, getattr(trainer, "datamodule", None), fitting)
        compare_data(self.network, checkpoint, fitting)
        encoder = (checkpoint.get("flowlit") or {}).get("text_encoder")
        if encoder and not fitting:
            self.network.text_encoder = encoder  # type: ignore[assignment]
            check_encoder(encoder, getattr(getattr(trainer, "datamodule", None), "noise", None))
        before = checkpoint.get("hyper_parameters", {})
        announce_differences(before, self.hparams, training)
        own = type(self).configure_optimizers is CheckpointedModule.configure_optimizers
        if fitting and own:
            check_moments(self.players(), checkpoint["optimizer_states"])
        if training and own:
            now = self.configurations(self.hparams)
            override(checkpoint, self.players(), self.configurations(before), now)

    def configurations(self, hparams: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the hyper-parameters of each of the ``players``."""
        return [hparams]


def announce_differences(before: Mapping[str, Any], now: Mapping[str, Any], training: bool) -> None:
    """Log hyper-parameters of which a checkpoint had others; in training also those that one side lacks."""
    old = flatten(in_current_names(dict(before)))
    new = flatten(in_current_names(dict(now)))
    one_sided = training and before and now  # a module that is built in Python has none
    for key in sorted(old.keys() | new.keys() if one_sided else old.keys() & new.keys()):
        if old.get(key, "nothing") != new.get(key, "nothing"):
            had = old.get(key, "nothing")
            rank_zero_info(f"flowlit: {key}: the checkpoint had {had}, now {new.get(key, 'nothing')} (used)")


def configured(hparams: Any, name: str) -> dict[str, Any] | None:
    """Return how the command line's configuration built an argument of the module; None if it did not."""
    given = hparams.get(name)
    return dict(given) if isinstance(given, dict) and "class_path" in given else None
