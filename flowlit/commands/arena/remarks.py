"""Lines below a comparison: budgets, inputs and machines that differ, runs that lack something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from .protocol import Measured, mean_of, spaces, tags
from .record import Row
from .runs import Cost, Run, Runs

SHARE = 0.02
"""Of the median, by which the counted evaluations of a method may differ from it."""


def mark_off_budget(rows: Sequence[Row], runs: Sequence[Run]) -> list[str]:
    """Mark rows of methods whose evaluations with gradient are not those of most; return a line for each.

    Roots without seeds, which make what all methods share, have no budget.
    """
    costs: dict[str, list[Cost]] = {}
    for run in runs:
        if run.seed and run.cost.complete:
            costs.setdefault(run.method, []).append(run.cost)
    means = {method: fmean(cost.with_gradient for cost in own) for method, own in costs.items()}
    usual = median(means.values()) if means else 0.0
    lines = {}
    for method, mean in means.items():
        if abs(mean - usual) > SHARE * usual:
            share = f" ({mean / usual - 1:+.0%})" if usual else ""
            lines[method] = f"* {method}: {mean:,.0f} with gradient, the median is {usual:,.0f}{share}"
    for row in rows:
        row.off_budget = row.method in lines
    return list(lines.values())


def left_out(runs: Runs) -> list[str]:
    """Return a line for each run that is not finished, and for each method that lacks a seed of others."""
    lines = [f"left out: {name}: {reason}" for name, reason in runs.incomplete.items()]
    seeded = [run for run in runs.finished if run.seed]
    seeds = sorted({run.seed for run in seeded})
    for method in dict.fromkeys(run.method for run in seeded):
        own = {run.seed for run in seeded if run.method == method}
        missing = [seed for seed in seeds if seed not in own and f"{method}/{seed}" not in runs.incomplete]
        lines += [f"missing: {method} has no seed {', '.join(missing)}"] if missing else []
    return lines


def uncounted(runs: Sequence[Run]) -> list[str]:
    """Return a line for each stage that trained and did not count."""
    stages: dict[str, list[str]] = {}
    for run in runs:
        for stage in run.cost.uncounted:
            stages.setdefault(stage, []).append(run.name)
    return [
        f"not counted: the training of {stage} ({', '.join(names)}); it lacks the callback TrainingCost"
        for stage, names in stages.items()
    ]


def different(runs: Sequence[Run]) -> list[str]:
    """Return a line for each method whose seeds differ in more than seeds."""
    lines = []
    for method in dict.fromkeys(run.method for run in runs):
        first, *others = [run for run in runs if run.method == method]
        for other in others:
            keys = [
                f"{stage}: {key}"
                for stage in first.contents
                for key in sorted(first.contents[stage].keys() | other.contents.get(stage, {}).keys())
                if key.rpartition(".")[2] not in ("seed", "seed_everything", "flowlit")
                and first.contents[stage].get(key) != other.contents.get(stage, {}).get(key)
            ]
            if keys:
                lines.append(f"different: {first.name} and {other.name} in {', '.join(keys[:3])}")
    return lines


def other_inputs(runs: Sequence[Run]) -> list[str]:
    """Return a line for each file or folder that runs have read with different contents."""
    lines = []
    for path in dict.fromkeys(path for run in runs for path in run.inputs):
        first, *others = [run for run in runs if path in run.inputs]
        changed = [run.name for run in others if run.inputs[path] != first.inputs[path]]
        if changed:
            lines.append(
                f"different: {path} was another when {', '.join(changed)} read it than for {first.name}"
            )
    return lines


def other_machines(reports: Sequence[Measured]) -> list[str]:
    """Return a line if reports are of several machines: times and speeds compare within one alone."""
    machines: dict[str, list[str]] = {}
    for each in reports:
        facts = each.report.get("hardware")
        if isinstance(facts, dict):
            machine = f"{facts.get('device')}, threads: {facts.get('threads')}"
            machines.setdefault(machine, []).append(each.name)
    parts = [f"{machine} ({len(names)} reports, {names[0]})" for machine, names in machines.items()]
    return (
        [f"several machines: {'; '.join(parts)}; hours and images/s do not compare"] if len(parts) > 1 else []
    )


def agreement(groups: Mapping[tuple[str, str, str], Sequence[Measured]], features: str) -> list[str]:
    """Return a line for each other space of features that all reports have: whether it ranks rows alike.

    Args:
        groups: of reports, by method, stage and solver; a row of the table each.
        features: the space of the table's distances.
    """
    from scipy.stats import spearmanr

    common = set.intersection(*(spaces(each.report) for group in groups.values() for each in group))
    lines = []
    for other in sorted(common - {features}):
        means = [
            [mean_of(group, f"{tags(space)[0]}/{solver}") for space in (features, other)]
            for (_, _, solver), group in groups.items()
        ]
        known = [pair for pair in means if None not in pair]
        if len(known) > 2:
            rank = spearmanr(known).statistic
            lines.append(f"ranks in {other} features: Spearman's correlation {rank:.2f}, {len(known)} rows")
    return lines
