"""Sharding by PyTorch's FSDP2: weights, gradients, moments and averages are divided among the devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, OptimStateKeyType, fully_shard
from torch.optim import Optimizer

from .lightning import divide_among_all_devices


class Sharded(ModelParallelStrategy):
    """Train a network that does not fit on one device with its gradients, moments and averages.

    Each device computes its rows. Small students do not need it: ``ddp`` is faster as long as everything
    fits. Checkpoints are the same single files, and go on with any strategy on any number of devices. Only
    ``fit`` shards, and gathers the network to generate in validation; other commands have it whole on every
    device, which then need not take the same number of steps.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        divide_among_all_devices(self)
        super().setup_environment()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False  # as everywhere: hooks may look at a checkpoint before it is loaded

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only is not False)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, dict(checkpoint["state_dict"]), options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return a whole state on rank 0, with the numbers that its parameters have without sharding."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_optimizer_state_dict(self.model, bare(optimizer), options=options)
        if self.global_rank != 0:
            return state
        return FullyShardedDataParallel.rekey_optim_state_dict(
            state, OptimStateKeyType.PARAM_ID, self.model, optim=bare(optimizer)
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        module = self.lightning_module
        assert module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if not state["state"]:  # of which PyTorch would make moments after a step without a gradient
                bare(optimizer).load_state_dict(state)
                continue
            named = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, module, optim=bare(optimizer)
            )
            # or PyTorch would make no moments to fill, where gradients are left of an earlier fit
            bare(optimizer).zero_grad()
            set_optimizer_state_dict(
                module, bare(optimizer), named, options=StateDictOptions(full_state_dict=True)
            )


StrategyRegistry.register(
    "sharded", Sharded, description="FSDP2: networks divided among the devices", override=True
)


def bare(optimizer: Any) -> Optimizer:
    """Return PyTorch's optimizer, without what Lightning puts around it."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the parameters of a network.

    Each block of a list of blocks is gathered by itself, and all other parameters together.
    """
    for blocks in (module for module in network.modules() if isinstance(module, nn.ModuleList)):
        for block in blocks:
            if any(True for _ in block.parameters()) and not isinstance(block, (nn.ModuleList, FSDPModule)):
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def gather(network: nn.Module) -> None:
    """Gather a sharded network on every device, which then computes alone, until ``scatter``."""
    for module in parts(network):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def scatter(network: nn.Module) -> None:
    """Divide a gathered network again, if it is a sharded one."""
    for module in parts(network):
        module.reshard()
        module.set_reshard_after_forward(module is not network, recurse=False)


def parts(network: nn.Module) -> list[FSDPModule]:
    """Return the parts of a network that are gathered one by one; none if it is not sharded."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]
