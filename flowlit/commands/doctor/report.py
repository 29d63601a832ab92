"""The report of ``flowlit doctor``: tables, and findings."""

from __future__ import annotations

from itertools import chain

from torch import nn

from ..._support.formatting import aligned, duration, size
from ...errors import FlowlitError
from ...frozen import Frozen
from ...metrics.cost import count_macs, count_parameters
from .checks.resources import files_kept, pair_bytes
from .files import File
from .subject import Finding, Subject

Rows = list[list[str]]


def report(subject: Subject, files: list[File], findings: list[Finding]) -> str:
    """Return the tables that are not empty, and the findings, as text."""
    tables = [networks(subject), memory(subject), disk(subject), times(subject)]
    blocks = [listed(files), *(aligned(rows) for rows in tables if len(rows) > 1)]
    lines = chain.from_iterable([*block, ""] for block in blocks)
    return "\n".join(
        [*lines, *(summarise(finding) for finding in findings), *(["nothing is wrong"] * (not findings))]
    )


def listed(files: list[File]) -> list[str]:
    """Return a line for each file: its name, and its state, which begins at the left."""
    width = max(len(file.what) for file in files)
    return [f"{file.what.ljust(width)}  {file.found}" for file in files]


def summarise(finding: Finding) -> str:
    """Return a finding as one line.

    >>> summarise(Finding("hint", "the sky is blue", "look up"))
    'hint     the sky is blue; look up'
    """
    return f"{finding.level:7s}  {finding.what}{'; ' + finding.mend if finding.mend else ''}"


def networks(s: Subject) -> Rows:
    """Return parameters and GMACs an image of each network."""
    named = {"network": getattr(s.model, "network", None)}
    named.update(("guide", guide) for guide in s.guides())
    teacher = getattr(s.data.coupling, "teacher", None)
    named |= {"teacher": teacher.network} if isinstance(teacher, Frozen) else {}
    rows = [
        [name, f"{count_parameters(network):,}", gmacs(network)]
        for name, network in named.items()
        if network is not None
    ]
    return [["network", "parameters", "GMACs"], *rows]


def gmacs(network: nn.Module) -> str:
    """Return the GMACs of one evaluation for one image; a dash for a network without a shape."""
    try:
        return f"{count_macs(network).all / 1e9:.3g}"
    except FlowlitError:
        return "–"


def memory(s: Subject) -> Rows:
    """Return the bytes on a device in a training step."""
    m = s.measured
    if m.activations is None or m.optimizer is None:
        return []
    rows = {
        "weights and averages": m.weights,
        "frozen networks": m.frozen,
        "gradients": m.gradients,
        "optimizer": m.optimizer,
        "resident pairs": m.resident,
        f"kept for backward, {s.share} samples": m.activations(s.share),
        "all": m.memory(s.share) or 0,
    }
    table = [[name, size(count)] for name, count in rows.items() if count]
    table += [[f"most that {m.peak[0]} samples allocated", size(m.peak[1])]] if m.peak else []
    return [
        ["memory of a device", "bytes"],
        *table,
        [f"free on {s.trainer.strategy.root_device}", size(m.free)],
    ]


def disk(s: Subject) -> Rows:
    """Return the bytes that the run writes."""
    if s.options is not None:
        pair = pair_bytes(s)
        counts = sorted({10_000, 100_000, 1_000_000, s.options.num})
        return [
            ["pairs", "bytes"],
            ["1", size(pair)],
            *([f"{count:,}", size(count * pair)] for count in counts),
        ]
    if s.measured.checkpoint is None or s.steps is None:
        return []
    one = s.measured.checkpoint
    many = files_kept(s)
    return [["disk", "bytes"], ["a checkpoint", size(one)], [f"{many} of them at the end", size(many * one)]]


def times(s: Subject) -> Rows:
    """Return the seconds of a step, of generation, and of the run."""
    rows = []
    total = 0.0
    step = s.measured.step
    if step and s.steps:
        each = s.seconds_a_step or 0.0
        total += s.steps * each
        rows.append(
            [
                "training step",
                f"{step.samples} samples",
                duration(each),
                f"{s.steps:,}",
                duration(s.steps * each),
            ]
        )
        pairs = step.pairs / step.seconds * each
        rows.append(["  completing pairs", "", duration(pairs), "", duration(s.steps * pairs)])
    for name, made in s.measured.made.items():
        num = s.images
        times = s.validations or 1
        each = made.seconds / made.samples * num / s.trainer.world_size
        total += times * each
        sample = f"{made.samples} samples, NFE {made.nfe:.1f}"
        rows.append(
            [
                f"{num:,} {'pairs' if s.options else 'images'} by {name}",
                sample,
                duration(each),
                f"{times:,}",
                duration(times * each),
            ]
        )
    rows += [["all", "", "", "", duration(total)]] if rows else []
    return [["time", "measured on", "each", "times", "together"], *rows]
