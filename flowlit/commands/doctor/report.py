"""The report of ``flowlit doctor``: tables, and findings."""

from __future__ import annotations

from itertools import chain

from torch import nn

from ..._support.formatting import aligned, duration, size
from ...errors import FlowlitError
from ...frozen import Frozen
from ...metrics.cost import count_macs, count_parameters
from ...modules import CriticModule
from ...modules.classes import counts_of, names_of
from ...objectives.score_distillation import ScoreDistillation
from .checks.resources import files_kept
from .gpus import assumption, estimates, numbers_of
from .subject import Finding, Subject
from .times import seconds_of, timings

Rows = list[list[str]]

MOST_CLASSES = 20
"""Classes that are listed, at most."""


def report(subject: Subject) -> str:
    """Return what was opened, the tables that are not empty, and the findings, as text."""
    width = max(map(len, subject.opened))
    opened = [f"{what.ljust(width)}  {state}" for what, state in subject.opened.items()]
    tables = [classes(subject), networks(subject), memory(subject), disk(subject), times(subject)]
    tables.append(estimates(subject))
    blocks = [opened, *(aligned(rows) for rows in tables if len(rows) > 1)]
    if subject.gpus:
        blocks.append([assumption(numbers_of(subject), subject.gpus)])
    lines = chain.from_iterable([*block, ""] for block in blocks)
    findings = map(summarise, subject.findings) if subject.findings else ["nothing is wrong"]
    return "\n".join([*lines, *findings])


def summarise(finding: Finding) -> str:
    """Return a finding as one line.

    >>> summarise(Finding("hint", "the sky is blue", "look up"))
    'hint     the sky is blue; look up'
    """
    return f"{finding.level:7s}  {finding.what}{'; ' + finding.mend if finding.mend else ''}"


def classes(s: Subject) -> Rows:
    """Return number, name and images (or pairs) of each class that is trained on."""
    counts = counts_of(s.pairs)
    if not counts:
        return []
    names = names_of(s.pairs) or ()
    every = range(max(len(names), max(counts) + 1))
    shown = every if len(every) <= MOST_CLASSES else every[: MOST_CLASSES - 1]
    rows = [[str(i), names[i] if i < len(names) else "–", f"{counts.get(i, 0):,}"] for i in shown]
    if len(shown) < len(every):
        remaining = sum(counts.values()) - sum(counts.get(i, 0) for i in shown)
        rows.append(["…", f"{len(every) - len(shown):,} more", f"{remaining:,}"])
    return [["class", "name", "rows"], *rows]


def networks(s: Subject) -> Rows:
    """Return parameters and GMACs an image of each network."""
    named = {"network": getattr(s.model, "network", None)}
    named.update(("guide", guide) for guide in s.guides())
    distilled = s.objectives(ScoreDistillation)  # type: ignore[type-abstract]
    named.update(("guide", part.guide.network) for part in distilled)
    if isinstance(s.model, CriticModule):
        named["critic"] = s.model.critic.network
    teacher = getattr(s.data.coupling, "teacher", None)
    if isinstance(teacher, Frozen):
        named["teacher"] = teacher.network
    networks = [(name, network) for name, network in named.items() if network is not None]
    rows = [[name, f"{count_parameters(network):,}", gmacs(network)] for name, network in networks]
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
    total = m.memory(s.share)
    if total is None:
        return []
    rows = [[name, size(count)] for name, count in {**m.parts(s.share), "all": total}.items() if count]
    if m.peak is not None:
        rows.append([f"most that {m.peak[0]} samples allocated", size(m.peak[1])])
    free = [f"free on {s.trainer.strategy.root_device}", size(m.free)]
    return [["memory of a device", "bytes"], *rows, free]


def disk(s: Subject) -> Rows:
    """Return the bytes that the run writes."""
    if s.options is not None and s.pair_bytes:
        counts = sorted({1, 10_000, 100_000, 1_000_000, s.options.num})
        return [["pairs", "bytes"], *([f"{count:,}", size(count * s.pair_bytes)] for count in counts)]
    one = s.measured.checkpoint
    if one is None or s.steps is None:
        return []
    many = files_kept(s)
    return [["disk", "bytes"], ["a checkpoint", size(one)], [f"{many} of them at the end", size(many * one)]]


def times(s: Subject) -> Rows:
    """Return the seconds of a step, of generation, and of the run."""
    rows = [
        [timing.what, timing.measured_on, duration(timing.each), f"{timing.number:,}", duration(timing.all)]
        for timing in timings(s)
    ]
    rows += [["all", "", "", "", duration(seconds_of(s))]] if rows else []
    return [["time", "measured on", "each", "how often", "together"], *rows]
