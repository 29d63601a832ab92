"""Examine a configuration: open its files, try a step, and look for what is suspicious."""

from __future__ import annotations

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
) -> Report:
    """Examine what ``fit`` would do, or ``couple`` with options.

    Trainer, model, data and all generators of random numbers are left as they were.

    Raises:
        FlowlitError: if the data is no ``FlowDataModule``.
    """
    subject = subject_of(trainer, model, datamodule, options, gpus)
    examine_subject(subject, ckpt_path)
    with isolate_rng():
        return Report(subject.findings, report(subject))


def refuse(findings: list[Finding]) -> None:
    """Refuse what has problems.

    Raises:
        FlowlitError: naming their number, and the first.
    """
    problems = [finding for finding in findings if finding.level == "problem"]
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}; first"
        raise FlowlitError(f"doctor: {count}: {problems[0].what}")


def subject_of(
    trainer: pl.Trainer,
    model: Any,
    datamodule: pl.LightningDataModule | None,
    options: CoupleOptions | None,
    gpus: tuple[str, ...],
) -> Subject:
    """Return what is to be examined.

    Raises:
        FlowlitError: if the data is no ``FlowDataModule``.
    """
    if not isinstance(datamodule, FlowDataModule):
        raise FlowlitError("doctor examines flowlit.modules.FlowDataModule; give that as data")
    # a copy, since data that share a batch among devices change the trainer
    return Subject(copy(trainer), model, datamodule, options, gpus)


def examine_subject(subject: Subject, ckpt_path: str | None = None) -> Any:
    """Fill in what a subject is found to need; return a copy of its model, trained for a few steps."""
    with isolate_rng():
        return copy_context().run(_examine, subject, ckpt_path)  # a step leaves its draws in its context


def _examine(subject: Subject, ckpt_path: str | None) -> Any:
    patient = deepcopy(subject.model)
    look_at_files(subject, patient, ckpt_path)
    measure(subject, patient)
    for check in checks.CHECKS:
        subject.findings += check(subject)
    subject.findings.sort(key=lambda finding: ORDER.index(finding.level))
    return patient
