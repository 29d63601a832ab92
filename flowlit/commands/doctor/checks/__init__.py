"""All checks of a configuration: generators of findings, a file for each subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..subject import Finding, Subject
from . import data, method, resources, run, score_distillation

CHECKS: list[Callable[[Subject], Iterable[Finding]]] = [
    resources.too_little_memory,
    resources.too_little_disk,
    resources.no_room_for_pairs,
    resources.too_long,
    method.averages,
    method.low_precision,
    method.annealing,
    method.other_teacher,
    method.fresh_weights,
    data.random_pairs,
    data.few_pairs,
    data.seen_noise,
    data.mirror,
    run.unprepared,
    run.misjudged,
    run.seldom_saved,
    method.no_guide,
    score_distillation.weak_critic,
    score_distillation.unbounded_correction,
    score_distillation.dropout,
    score_distillation.unprepared_critic,
]
