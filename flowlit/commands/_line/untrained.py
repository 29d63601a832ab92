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
    if command not in ("fit", "doctor") and "--resume" in options:
        raise FlowlitError(f"--resume goes on with a fit; give {command} its weights by --ckpt_path")
    if command == "fit" and "--untrained" in options:
        raise FlowlitError(
            "--untrained lets a network generate with fresh weights, but fit trains; leave it out"
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
    name = fresh_network(model)
    if name and not allowed:
        raise FlowlitError(
            f"{command}: {name} has fresh weights, no training has changed them; {ways_to_weights(trainer)}"
        )


def fresh_network(model: Any) -> str:
    """Return the class of a model's network if it was just built, and read from no file; otherwise ''."""
    if not isinstance(model, CheckpointedModule):
        return ""
    read = any(loaded_of(part) is not None for part in model.network.modules())
    trainable = any(True for _ in model.network.parameters())
    return type(model.network).__name__ if trainable and not read else ""


def ways_to_weights(trainer: pl.Trainer) -> str:
    """Return the options that give a network weights; the checkpoint that a run has left is named."""
    latest = None
    with suppress(FlowlitError):  # none of them is good
        latest = newest(run_folders(trainer), resume=False)
    file = "FILE" if latest is None else f"{latest[0]} (step {latest[1]})"
    return f"give it those of a run, --ckpt_path {file}, or --untrained true to mean it"
