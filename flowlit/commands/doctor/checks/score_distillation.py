"""Checks of score distillation: what its papers and their users stumbled over."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ....metrics.cost import count_parameters
from ....modules import CriticModule
from ....objectives.score_distillation import ScoreDistillation, ScoreIdentity
from ..subject import Finding, Subject

WEAKER = 0.5
"""Share of the guide's parameters below which a critic is called weaker."""


def weak_critic(s: Subject) -> Iterator[Finding]:
    """Yield a warning if the critic is much smaller than the guide that it is compared with."""
    for part in _games(s):
        guide = count_parameters(part.guide.network)
        critic = count_parameters(s.model.critic.network)
        if critic < WEAKER * guide:
            what = f"the critic has {critic:,} parameters and the guide {guide:,}"
            mend = "model.critic.network: a copy of the guide"
            yield Finding("warning", f"{what}: what it cannot follow stays as a bias of the student", mend)


def unbounded_correction(s: Subject) -> Iterator[Finding]:
    """Yield a warning of a negative correction, α above 1, without the normaliser that keeps it bounded."""
    for part in _games(s):
        if isinstance(part, ScoreIdentity) and part.correction < 0 and not part.normalise:
            what = f"ScoreIdentity with correction {part.correction:g} (α above 1) diverges unless normalised"
            yield Finding("warning", what, "normalise: true, or a correction of 0")


def dropout(s: Subject) -> Iterator[Finding]:
    """Yield a warning of dropout in the generator, whose samples the critic is to follow."""
    if _games(s) and any(
        isinstance(layer, nn.Dropout) and layer.p > 0 for layer in s.model.network.modules()
    ):
        yield Finding(
            "warning",
            "the generator has dropout, so that its samples are not those that it will generate",
            "a student that was trained with dropout: 0.0",
        )


def unprepared_critic(s: Subject) -> Iterator[Finding]:
    """Yield a warning if the generator moves from the first step on: its critic does not follow it yet."""
    if _games(s) and s.model.make_scheduler is None:
        what = "the generator moves from its first step on, before the critic follows it"
        mend = "model.lr_scheduler: flowlit.schedules.WarmUp with wait: 100, say"
        yield Finding("warning", what, mend)


def _games(s: Subject) -> list[ScoreDistillation]:
    if not s.trains or not isinstance(s.model, CriticModule):
        return []
    return s.objectives(ScoreDistillation)  # type: ignore[type-abstract]
