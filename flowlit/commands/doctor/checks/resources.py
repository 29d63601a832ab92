"""Checks of memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from ...._support.files import existing
from ...._support.formatting import duration, size
from ..plan import kept
from ..subject import Finding, Subject
from ..times import seconds_of

DAYS = 30
"""Longer runs are warned of."""

SHARDING = (FSDPStrategy, ModelParallelStrategy)
"""Strategies under which a device has a part of what was measured."""


def too_little_memory(s: Subject) -> Iterator[Finding]:
    one = s.measured.memory(s.share) or 0
    needed = one * s.trainer.num_devices if s.trainer.strategy.root_device.type == "cpu" else one
    free = s.measured.free
    if needed > free and not isinstance(s.trainer.strategy, SHARDING):
        what = f"a step with {s.share} samples needs {size(needed)} at least, and {size(free)} are free"
        mend = f"--data.device_batch_size {max(1, s.share // 2)}: the same batch in smaller parts"
        yield Finding("problem", what, mend)


def too_little_disk(s: Subject) -> Iterator[Finding]:
    folder = s.folder
    if folder is None or s.steps is None or s.measured.checkpoint is None:
        return
    files = files_kept(s)
    needed = (files + 1) * s.measured.checkpoint
    free = free_space(folder)
    if needed > free:
        what = f"{files} checkpoints, and the one being written, of {size(s.measured.checkpoint)}"
        mend = "free some, write elsewhere (--vars.root), or keep fewer (save_top_k of ModelCheckpoint)"
        yield Finding("problem", f"{what} need {size(needed)}; {size(free)} are free in {folder}", mend)


def no_room_for_pairs(s: Subject) -> Iterator[Finding]:
    if s.options is None:
        return
    needed = s.missing * s.pair_bytes
    folder = s.writes or Path(s.options.store)
    free = free_space(folder)
    if needed > free:
        what = f"{s.missing:,} pairs need {size(needed)}, and {size(free)} are free in {folder}"
        mend = "free some, choose another --store, or store them smaller: --x0 seed --x1 uint8"
        yield Finding("problem", what, mend)


def too_long(s: Subject) -> Iterator[Finding]:
    seconds = seconds_of(s)
    if seconds > DAYS * 86_400:
        yield Finding("warning", f"this takes {duration(seconds)} on this machine", ", ".join(ways_out(s)))


def ways_out(s: Subject) -> Iterator[str]:
    """Yield what makes a run shorter, the most effective first."""
    if s.trainer.strategy.root_device.type == "cpu":
        yield "a GPU (--for a10g,4090,h100 estimates them)"
    else:
        yield f"more GPUs (--trainer.devices {2 * s.trainer.num_devices})"
    if s.trains and str(s.trainer.precision).startswith("32"):
        yield "--trainer.precision bf16-mixed on a GPU"
    yield "a smaller network (--model.network.width, --vars.size in recipes that have it)"
    if s.options is not None:
        yield "fewer pairs (--num), a solver with fewer steps"
    elif s.trains:
        yield "fewer steps (--trainer.max_steps)"
    else:
        yield "fewer images (--data.noise.num), solvers with fewer steps"


def free_space(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(existing(folder)).free


def files_kept(s: Subject) -> int:
    """Return the number of checkpoints at the end of the run."""
    callbacks: list[Any] = s.trainer.checkpoint_callbacks
    return sum(kept(callback, s.steps or 0, s.validations) for callback in callbacks)
