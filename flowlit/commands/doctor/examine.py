"""Examine a configuration: open its files, try a step, and look for what is suspicious."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from copy import copy, deepcopy
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from ...errors import FlowlitError
from ...modules import FlowDataModule
from ..couple import CoupleOptions
from . import checks
from .files import look_at_files
from .measure import measure
from .report import report
from .subject import Finding, Subject

ORDER = ("problem", "warning", "hint")

Keep = Callable[[Subject, Any], None]


class Report(NamedTuple):
    """Findings, and the text to print."""

    findings: list[Finding]
    text: str

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "problem"]


def examine(
    trainer: pl.Trainer,
    model: Any,
    datamodule: pl.LightningDataModule | None,
    ckpt_path: str | None = None,
    options: CoupleOptions | None = None,
    gpus: tuple[str, ...] = (),
    keep: Keep | None = None,
) -> Report:
    """Examine what ``fit`` would do, or ``couple`` with options.

    ``keep`` is called at the end with what was examined, and with the copy of the model that has been trained
    for a few steps.

    Trainer, model, data and all generators of random numbers are left as they were.

    Raises:
        FlowlitError: if the data is no ``FlowDataModule``.
    """
    if not isinstance(datamodule, FlowDataModule):
        raise FlowlitError("doctor examines flowlit.modules.FlowDataModule; give that as data")
    # a copy, since data that share a batch among devices change the trainer
    subject = Subject(copy(trainer), model, datamodule, options, gpus=gpus)
    with isolate_rng():
        return copy_context().run(_examine, subject, ckpt_path, keep)  # a step leaves its draws there


def _examine(subject: Subject, ckpt_path: str | None, keep: Keep | None) -> Report:
    patient = deepcopy(subject.model)
    look_at_files(subject, patient, ckpt_path)
    measure(subject, patient)
    for check in checks.CHECKS:
        subject.findings += check(subject)
    subject.findings.sort(key=lambda finding: ORDER.index(finding.level))
    if keep is not None:
        keep(subject, patient)
    return Report(subject.findings, report(subject))
