"""The images that a network is trained on: kept with it, and compared with those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from ..couplings import Independent, PromptedImages
from ..data.provenance import Facts, are_other, described, in_words, trained_on
from ..errors import FlowlitError
from ..networks.checkpoints.fingerprint import features_of
from ..types import ImageDataset, loaded_of

FEW_IMAGES = 5_000
MANY_PASSES = 300
"""Fewer images than that, seen more often than that, tend to be learned by heart."""


def images_trained_on(data: Any) -> Facts | None:
    """Return the images that a data module, once it is open, trains on; None if it does not say.

    Pairs are those of their teacher's images.
    """
    coupling = getattr(data, "coupling", None)
    images = getattr(coupling, "images", None)
    if isinstance(images, ImageDataset):
        task = getattr(coupling, "task", None)
        return described(images) | ({"super_resolution": task} if task else {})
    return trained_on(getattr(data, "pairs", None)) or trained_on(getattr(coupling, "teacher", None))


def take_data(network: nn.Module, data: Any, flow: bool, objective: nn.Module | None = None) -> None:
    """Give a network the images that it is about to be trained on, where these are known.

    Args:
        network: whose attribute ``trained_on`` is set.
        data: the data module.
        flow: whether it is trained as a flow, and not as a generator alone.
        objective: whose feature networks are kept with it, and with those of trainings before.
    """
    facts = images_trained_on(data)
    if facts is not None:
        fresh = flow and type(getattr(data, "coupling", None)) in (Independent, PromptedImages)
        features = (trained_on(network) or {}).get("features", {}) | features_of(objective)
        seen = {"features": features} if features else {}
        network.trained_on = facts | seen | ({} if fresh else {"fresh_noise": False})  # type: ignore[assignment]


def check_guide(guide: nn.Module, name: str) -> None:
    """Refuse a guide of score distillation whose file says that it is no flow from independent noise.

    Raises:
        FlowlitError: with its file, where it came from one.
    """
    facts = trained_on(guide) or {}
    if facts.get("fresh_noise") is False:
        file = (loaded_of(guide) or {}).get("file", type(guide).__name__)
        raise FlowlitError(
            f"{name}: its guide {file} was trained on pairs or as a generator, so that its velocity is not "
            "that of fresh noise; expected a teacher, trained on images with couplings.Independent or "
            "couplings.PromptedImages"
        )


def compare_data(network: nn.Module, checkpoint: Mapping[str, Any], training: bool) -> None:
    """Warn of a run that goes on with other images than before; a network that generates takes them over."""
    before = (checkpoint.get("flowlit") or {}).get("data")
    now = trained_on(network)
    if not training:
        network.trained_on = before or now  # type: ignore[assignment]
    elif before and now and are_other(before, now):
        rank_zero_warn(
            f"the checkpoint was trained on {in_words(before)}, and goes on with {in_words(now)}: if that is "
            "not meant, name the images of before"
        )


def warn_of_memorising(trainer: pl.Trainer) -> None:
    """Warn of many passes over few images, which a network then may learn by heart."""
    data: Any = getattr(trainer, "datamodule", None)
    images = getattr(getattr(data, "coupling", None), "images", None)
    if not isinstance(images, ImageDataset):
        return
    passes = trainer.max_epochs or 0
    if trainer.max_steps > 0:
        passes = trainer.max_steps * data.batch_size // len(images)
    if len(images) < FEW_IMAGES and passes > MANY_PASSES:
        rank_zero_warn(
            f"{passes:,} passes over {len(images):,} images: the network may learn them by heart; train for "
            "fewer steps, or measure it, by flowlit validate with the callback "
            "flowlit.callbacks.NearestNeighbours (memorisation/<solver> near 0: copies)"
        )
