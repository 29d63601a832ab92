"""All checks of a configuration: a function for each suspicion, which returns a finding or None."""

from __future__ import annotations

from collections.abc import Callable

from ..subject import Finding, Subject
from . import data, method, resources, run

CHECKS: list[Callable[[Subject], Finding | None]] = [
    resources.too_little_memory,
    resources.too_little_disk,
    resources.no_room_for_pairs,
    data.misplaced_measures,
    method.no_average,
    method.average_of_old_weights,
    method.average_of_few_steps,
    method.low_precision,
    method.not_annealed,
    method.annealed_too_long,
    data.random_pairs,
    method.other_teacher,
    data.few_pairs,
    data.seen_noise,
    data.mirror,
    data.few_images,
    run.never_validated,
    run.not_saved,
    run.seldom_saved,
    run.no_seed,
    method.no_guide,
    run.run_before,
]
