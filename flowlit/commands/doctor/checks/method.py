"""Checks of the method: averages, precision, annealing, guide and teacher."""

from __future__ import annotations

from ....callbacks.training.anneal import Anneal
from ....callbacks.training.ema import EMA
from ....modules import FlowModule, OneStepStudent
from ....networks.checkpoints.fingerprint import fingerprint
from ....objectives import AnnealedReflow, FlowGuided
from ....types import loaded_of
from ..subject import Finding, Subject

ENDED = 1e-3
"""β below this counts as 0."""

OLD = 0.05
"""Share of the weights at the beginning that an average may still have at the end."""


def no_average(s: Subject) -> Finding | None:
    if s.trains and isinstance(s.model, FlowModule) and not s.callbacks(EMA):
        return Finding(
            "warning",
            "no average of the weights is kept; the last weights will generate",
            "add flowlit.callbacks.EMA",
        )
    return None


def average_of_old_weights(s: Subject) -> Finding | None:
    """Return a warning if an average still has much of the weights that it began with when the run ends.

    That share is the product of the profile's decays.
    """
    for average in s.callbacks(EMA) if s.steps else []:
        share = 1.0
        n = 0
        while n < (s.steps or 0) and share > OLD:
            n += 1
            share *= average.rule(n, s.data.batch_size)
        if share > OLD:
            what = (
                f"EMA {average.name}: after {s.steps:,} steps {share:.0%} of the average are still the "
                "weights it began with"
            )
            return Finding("warning", what, "a lower decay, or warmup: true")
    return None


def average_of_few_steps(s: Subject) -> Finding | None:
    """Return a warning if an average is over less than a thousandth of the run."""
    for average in s.callbacks(EMA) if s.steps else []:
        window = 1 / max(1e-9, 1 - average.rule(s.steps or 1, s.data.batch_size))
        if 1000 * window < (s.steps or 0):
            what = f"EMA {average.name}: averages over the last {window:,.0f} of {s.steps:,} steps only"
            return Finding("warning", what, f"a decay of {1 - 100 / (s.steps or 1):.5g}, say")
    return None


def low_precision(s: Subject) -> Finding | None:
    if s.trains and str(s.trainer.precision) in ("bf16-true", "16-true"):
        what = (
            f"precision {s.trainer.precision} rounds the weights after every step, and small updates are lost"
        )
        return Finding("warning", what, "--trainer.precision bf16-mixed")
    return None


def no_guide(s: Subject) -> Finding | None:
    if s.trains and isinstance(s.model, OneStepStudent) and not s.objectives(FlowGuided):
        what = "OneStepStudent is distilled without flow guidance, so its pairs are all it sees"
        mend = "model.objective: Combined of Distillation and FlowGuided (experiments/distill_digits.yaml)"
        return Finding("warning", what, mend)
    return None


def other_teacher(s: Subject) -> Finding | None:
    """Return a warning if the guide, or the student's first weights, did not make the pairs."""
    if not isinstance(s.model, OneStepStudent):
        return None
    known = sorted({m["teacher"]["sha256"] for m in s.manifests if m["teacher"] and "sha256" in m["teacher"]})
    network = s.model.network
    begun = {"the student begins from": network} if loaded_of(network) else {}
    for what, other in [*(("the guide is", guide) for guide in s.guides()), *begun.items()]:
        hashed = fingerprint(other) if known else ""
        if known and hashed not in known:
            return Finding(
                "warning",
                f"{what} another network ({hashed[:8]}…) than the one whose pairs these are "
                f"({known[0][:8]}…)",
                "make the couplings with that network (flowlit couple), or name the one that made them",
            )
    return None


def beta(s: Subject) -> Anneal | None:
    """Return the callback that moves β, if there is one."""
    places = {
        f"objective.{name}.beta".replace("..", ".")
        for name, part in s.model.objective.named_modules()
        if isinstance(part, AnnealedReflow)
    }
    return next((anneal for anneal in s.callbacks(Anneal) if anneal.attribute in places), None)


def not_annealed(s: Subject) -> Finding | None:
    parts = s.objectives(AnnealedReflow) if s.trains else []
    if parts and beta(s) is None:
        what = f"AnnealedReflow without flowlit.callbacks.Anneal: β stays at {parts[0].beta:g}"
        return Finding(
            "warning",
            what,
            "add the callback, or say what is meant: objective flowlit.objectives.RectifiedFlow",
        )
    return None


def annealed_too_long(s: Subject) -> Finding | None:
    anneal = beta(s) if s.steps and s.objectives(AnnealedReflow) else None
    if not s.steps or anneal is None:
        return None
    last = anneal.schedule(s.steps - 1)
    late = anneal.schedule(int(0.9 * s.steps))
    if last > ENDED:
        what = (
            f"β is still {last:.3g} at the last of {s.steps:,} steps, so the pairs as they are stored are "
            "never trained on"
        )
        return Finding("warning", what, "a schedule that ends earlier, or more steps")
    if late > ENDED:
        what = (
            f"β reaches 0 in the last tenth of the run only (it is {late:.3g} at step "
            f"{int(0.9 * s.steps):,} of {s.steps:,})"
        )
        return Finding("warning", what, "a schedule that ends earlier: SlimFlow's at 3/8 of the run")
    return None
