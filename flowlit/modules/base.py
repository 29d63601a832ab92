"""A LightningModule whose checkpoints say how its network is built."""

from __future__ import annotations

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
)
from .._engine.sharding import gather, parts, scatter, shard
from .._support.nested import flatten
from .._version import __version__
from ..errors import FlowlitError
from ..networks.checkpoints.load import mismatch
from ..networks.checkpoints.spec import spec, summarise
from .overrides import override_optimizer, override_scheduler


class CheckpointedModule(pl.LightningModule):
    """A module whose checkpoints say how its network is built, and refuse another architecture with a clear
    error.
    """

    network: nn.Module

    def __init__(
        self, network: nn.Module, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None
    ):
        super().__init__()
        if is_built_from_configuration():
            self.save_hyperparameters()
        self.network = network
        self.make_optimizer = optimizer
        self.make_scheduler = lr_scheduler
        self._parts: list[Tensor] = []

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.network.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def setup(self, stage: str) -> None:
        """Train mode in fit, also for a network that came from ``pretrained``, which gives it in eval
        mode.
        """
        self._parts = []
        if stage == "fit":
            count_first_optimizer(self.trainer)
            self.network.train()

    def networks(self) -> list[nn.Module]:
        """All that is trained or averaged."""
        return [self.network]

    def velocity(self) -> nn.Module:
        """The network that validation looks at."""
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

    def log_training(self, parts: dict[str, Tensor], rows: int) -> None:
        """Log the means of a step over its accumulated batches and, where a logger takes them, over all
        devices.
        """
        trainer = self.trainer
        self._parts.append(torch.stack([value.detach().float() for value in parts.values()]))
        if is_accumulating(trainer):
            return
        means = torch.stack(self._parts).mean(0)
        self._parts = []
        if trainer.world_size > 1 and is_logging_step(trainer):
            means = trainer.strategy.reduce(means, reduce_op="mean")
        bar = trainer.progress_bar_callback
        foreign = bar is not None and not getattr(
            bar, "reads_loss", False
        )  # Lightning's are handed numbers, in every step
        for name, value in zip(parts, means, strict=True):
            self.log(f"train/{name}", value, prog_bar=foreign and name == "loss", batch_size=rows)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must tell for ``flowlit.load`` and ``pretrained``."""
        network = spec(self.network) or _configured(self.hparams, "network")
        return {"version": __version__, "network": network}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["flowlit"] = self.facts()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if difference := mismatch(*map(without_averages, (self.state_dict(), checkpoint["state_dict"]))):
            network = checkpoint.get("flowlit", {}).get("network")
            raise FlowlitError(
                f"the checkpoint is of another architecture than this {type(self).__name__}: {difference}. "
                "Take the "
                "config.yaml beside it, or start afresh without --ckpt_path"
                + (f". It holds {summarise(network)}" if network else "")
            )
        before = flatten(checkpoint.get("hyper_parameters", {}))
        now = flatten(dict(self.hparams))
        for key in sorted(before.keys() & now.keys()):
            if before[key] != now[key]:
                rank_zero_info(f"flowlit: {key}: the checkpoint had {before[key]}, now {now[key]} (used)")
        override_optimizer(checkpoint, self.hparams.get("optimizer"))
        override_scheduler(checkpoint, self.hparams.get("lr_scheduler"))


def _configured(hparams: Any, name: str) -> dict[str, Any] | None:
    """Find how the command line's configuration built an argument of the module."""
    given = hparams.get(name)
    return dict(given) if isinstance(given, dict) and "class_path" in given else None


def without_averages(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without averages other than ``ema``, which a module has only while it keeps them."""
    return {key: value for key, value in state.items() if not key.startswith("averages.")}
