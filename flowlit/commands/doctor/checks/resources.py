"""Checks of memory and disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ...._support.files import existing
from ...._support.formatting import size
from ....couplings.store import encoding
from ..plan import kept, output_folder
from ..subject import Finding, Subject

SHARDING = (FSDPStrategy, ModelParallelStrategy)
"""Strategies under which a device has a part of what was measured."""


def too_little_memory(s: Subject) -> Finding | None:
    needed = s.measured.memory(s.share)
    here = s.trainer.num_devices if s.trainer.strategy.root_device.type == "cpu" else 1
    if needed is None or here * needed <= s.measured.free or isinstance(s.trainer.strategy, SHARDING):
        return None
    what = (
        f"a step with {s.share} samples needs {size(here * needed)} at least, and {size(s.measured.free)} "
        "are free"
    )
    return Finding(
        "problem", what, f"--data.device_batch_size {max(1, s.share // 2)}: the same batch in smaller parts"
    )


def too_little_disk(s: Subject) -> Finding | None:
    folder = output_folder(s.trainer)
    if folder is None or s.steps is None or s.measured.checkpoint is None:
        return None
    needed = (files_kept(s) + 1) * s.measured.checkpoint  # and one that is being written
    free = shutil.disk_usage(existing(folder)).free
    if needed <= free:
        return None
    what = (
        f"{files_kept(s)} checkpoints, and the one being written, of {size(s.measured.checkpoint)} need "
        f"{size(needed)}; "
        f"{size(free)} are free in {folder}"
    )
    return Finding(
        "problem",
        what,
        "free some, write elsewhere (--vars.root), or keep fewer (save_top_k of ModelCheckpoint)",
    )


def no_room_for_pairs(s: Subject) -> Finding | None:
    if s.options is None:
        return None
    place = existing(Path(s.options.store))
    needed = s.missing * pair_bytes(s)
    free = shutil.disk_usage(place).free
    if needed <= free:
        return None
    what = f"{s.missing:,} pairs need {size(needed)}, and {size(free)} are free in {s.options.store}"
    return Finding(
        "problem", what, "free some, choose another --store, or store them smaller: --x0 seed --x1 uint8"
    )


def pair_bytes(s: Subject) -> int:
    """Return the bytes of one of the pairs to make."""
    noise = s.data.noise
    if s.options is None or noise is None:
        return 0
    conditions = sum(value.nbytes for value in noise.batch([0]).cond.values())
    return encoding.pair_bytes(noise.shape, s.options.x0, s.options.x1, conditions)


def files_kept(s: Subject) -> int:
    """Return the number of checkpoints at the end of the run."""
    callbacks: list[Any] = s.trainer.checkpoint_callbacks
    return sum(kept(callback, s.steps or 0, s.validations) for callback in callbacks)
