"""Weights that no training has changed, where trained ones belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl

from ..._engine.checkpoint_files import newest
from ...errors import FlowlitError
from ...modules.base import CheckpointedModule
from ...types import loaded_of
from .resume import run_folders


def check_weight_options(words: Sequence[str]) -> None:
    """Refuse ``--resume`` of a command that does not train, and ``--untrained`` of one that does.

    Args:
        words: of a command line, the command first.

    Raises:
        FlowlitError: naming the option.
    """
    command = words[0]
    options = {word.split("=")[0] for word in words}
    trains = command in ("fit", "doctor")
    if not trains and "--resume" in options:
        raise FlowlitError(f"--resume goes on with a fit; give {command} its weights by --ckpt_path")
    if trains and "--untrained" in options:
        raise FlowlitError(
            f"--untrained lets a network generate with fresh weights, but {command} trains; leave it out"
        )


def check_trained(
    trainer: pl.Trainer, model: pl.LightningModule, command: str, config: Mapping[str, Any]
) -> None:
    """Refuse to generate with a network that the configuration has just built, and read from no file.

    Args:
        trainer: of the run, whose checkpoints are named.
        model: as the configuration built it.
        command: that is to run.
        config: its options.

    Raises:
        FlowlitError: with the options that give it weights.
    """
    allowed = config.get("untrained") or config.get("ckpt_path") or config.get("origin") == "random"
    if allowed or not isinstance(model, CheckpointedModule):
        return
    network = model.network
    read = any(loaded_of(part) is not None for part in network.modules())
    if read or not any(True for _ in network.parameters()):
        return
    latest = None
    with suppress(FlowlitError):  # none of them is good
        latest = newest(run_folders(trainer), resume=False)
    file = "FILE" if latest is None else f"{latest[0]} (step {latest[1]})"
    raise FlowlitError(
        f"{command}: {type(network).__name__} has fresh weights, no training has changed them; give it those "
        f"of a run, --ckpt_path {file}, or --untrained true to mean it"
    )
