"""Callbacks and plugins that a trainer gets beside those of a configuration."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelSummary, ProgressBar

from ..._engine.checkpoint_files import AtomicIO
from ...callbacks.training.checkpoint import LastCheckpoint
from ...callbacks.training.progress import Progress
from ...callbacks.training.signals import SaveOnSignal
from ...callbacks.training.summary import Summary


def complete(config: dict[str, Any], trains: bool) -> list[Callback]:
    """Return ``Progress`` and ``Summary``, unless others or none are configured, and what saves a fit on a
    signal: it is the last callback of a fit, and the first of other commands.

    Without a logger no ``LearningRateMonitor`` takes part: there is nothing that it could log to.

    Args:
        config: arguments of a trainer, in which callbacks and plugins become lists.
        trains: whether the command keeps checkpoints.
    """
    barebones = config.get("barebones")
    given = _as_list(config.get("callbacks") or [])
    if config.get("logger") in (False, []) or barebones:
        given = [callback for callback in given if not isinstance(callback, LearningRateMonitor)]

    def lacks(option: str, kind: type[Callback]) -> bool:
        wanted = config.get(option) is not False and not barebones
        return wanted and not any(isinstance(callback, kind) for callback in given)

    added: list[Callback] = []
    if lacks("enable_progress_bar", ProgressBar):
        added.append(Progress())
    if lacks("enable_model_summary", ModelSummary):
        config["enable_model_summary"] = False
        added.append(Summary())
    if lacks("enable_checkpointing", LastCheckpoint) and trains:
        added.append(LastCheckpoint())
    plugins = _as_list(config.get("plugins") or [])
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        config["plugins"] = [*plugins, AtomicIO()]
    if trains:
        config["callbacks"] = given
        return [*added, SaveOnSignal()]
    config["callbacks"] = [SaveOnSignal(), *given]  # before those that compute when an evaluation begins
    return added


def _as_list(given: Any) -> list[Any]:
    """Return a list of things, of which a YAML may have one without brackets."""
    return given if isinstance(given, list) else [given]
