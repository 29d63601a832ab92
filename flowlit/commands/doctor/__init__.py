"""``flowlit doctor``: examine a configuration before hours are spent on it.

What it reads, what it needs, and what in it is suspicious.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from ...errors import FlowlitError
from ..couple import CoupleOptions
from .examine import Report, examine, refuse

__all__ = ["Report", "doctor", "examine"]


def doctor(
    trainer: pl.Trainer,
    model: Any,
    datamodule: pl.LightningDataModule | None,
    ckpt_path: str | None,
    weights_only: bool | None,
    options: CoupleOptions | None,
    gpus: tuple[str, ...] = (),
) -> None:
    """Print the report on what ``fit`` would do, or on what ``couple`` would do with options.

    It has estimates for the GPUs that are named, too.

    Raises:
        FlowlitError: if there is a problem.
    """
    if weights_only is False:
        raise FlowlitError("doctor reads checkpoints as plain data only; drop --weights_only false")
    report = examine(trainer, model, datamodule, ckpt_path, options, gpus)
    print(report.text, flush=True)
    refuse(report.findings)
