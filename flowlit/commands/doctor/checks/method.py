"""Checks of the method: averages, precision, annealing, guide and teacher."""

from __future__ import annotations

from collections.abc import Iterator

from ....callbacks.training.anneal import Anneal
from ....callbacks.training.ema import EMA
from ....modules import FlowModule, OneStepStudent
from ....networks.checkpoints.fingerprint import fingerprint
from ....objectives import AnnealedReflow, FlowGuided
from ....types import loaded_of
from ..._line.untrained import fresh_network, ways_to_weights
from ..subject import Finding, Subject

ENDED = 1e-3
"""β below this counts as 0."""

OLD = 0.05
"""Share of the weights at the beginning that an average may still have at the end."""


def averages(s: Subject) -> Iterator[Finding]:
    """Yield a warning if there is no average, and for each that is over too many steps or too few.

    Too many are over if, when the run ends, much of the average is still what it began with: that share is
    the product of the profile's decays. Too few are less than a thousandth of the run.
    """
    if s.trains and isinstance(s.model, FlowModule) and not s.callbacks(EMA):
        what = "no average of the weights is kept; the last weights will generate"
        yield Finding("warning", what, "add flowlit.callbacks.EMA")
    steps = s.steps or 0
    for average in s.callbacks(EMA) if steps else []:
        share = 1.0
        n = 0
        while n < steps and share > OLD:
            n += 1
            share *= average.rule(n, s.data.batch_size)
        if share > OLD:
            what = f"after {steps:,} steps {share:.0%} of the average are still the weights it began with"
            yield Finding("warning", f"EMA {average.name}: {what}", "a lower decay, or warmup: true")
        window = 1 / max(1e-9, 1 - average.rule(steps, s.data.batch_size))
        if 1000 * window < steps:
            what = f"EMA {average.name}: averages over the last {window:,.0f} of {steps:,} steps only"
            yield Finding("warning", what, f"a decay of {1 - 100 / steps:.5g}, say")


def low_precision(s: Subject) -> Iterator[Finding]:
    if s.trains and str(s.trainer.precision) in ("bf16-true", "16-true"):
        what = "rounds the weights after every step, and small updates are lost"
        yield Finding("warning", f"precision {s.trainer.precision} {what}", "--trainer.precision bf16-mixed")


def fresh_weights(s: Subject) -> Iterator[Finding]:
    """Yield a problem if pairs would be made by a network that nothing has trained: ``couple`` refuses."""
    meant = getattr(s.trainer, "untrained", False) or s.resumes
    if s.options is None or s.options.origin == "random" or meant:
        return
    name = fresh_network(s.model)
    if name:
        what = f"{name} has fresh weights, and pairs of them teach nothing"
        yield Finding("problem", what, ways_to_weights(s.trainer))


def no_guide(s: Subject) -> Iterator[Finding]:
    if s.trains and isinstance(s.model, OneStepStudent) and not s.objectives(FlowGuided):
        what = "OneStepStudent is distilled without flow guidance, so its pairs are all it sees"
        mend = "model.objective: Combined of Distillation and FlowGuided (experiments/distill_digits.yaml)"
        yield Finding("warning", what, mend)


def other_teacher(s: Subject) -> Iterator[Finding]:
    """Yield a warning if the guide, or the student's first weights, did not make the pairs."""
    makers = sorted(
        {m["teacher"]["sha256"] for m in s.manifests if m["teacher"] and "sha256" in m["teacher"]}
    )
    if not makers or not isinstance(s.model, OneStepStudent):
        return
    networks = [("the guide is", guide) for guide in s.guides()]
    if loaded_of(s.model.network):
        networks.append(("the student begins from", s.model.network))
    for what, network in networks:
        weights = fingerprint(network)
        if weights not in makers:
            maker = f"the one whose pairs these are ({makers[0][:8]}…)"
            mend = "make the couplings with that network (flowlit couple), or name the one that made them"
            yield Finding("warning", f"{what} another network ({weights[:8]}…) than {maker}", mend)
            return


def annealing(s: Subject) -> Iterator[Finding]:
    """Yield a warning if β stays, or is not 0 for the last tenth of the run."""
    parts = s.objectives(AnnealedReflow) if s.trains else []
    if not parts:
        return
    anneal = beta(s)
    if anneal is None:
        what = f"AnnealedReflow without flowlit.callbacks.Anneal: β stays at {parts[0].beta:g}"
        mend = "add the callback, or say what is meant: objective flowlit.objectives.RectifiedFlow"
        yield Finding("warning", what, mend)
    elif s.steps:
        last = anneal.schedule(s.steps - 1)
        place = int(0.9 * s.steps)
        late = anneal.schedule(place)
        if last > ENDED:
            what = f"β is still {last:.3g} at the last of {s.steps:,} steps, so the pairs as they are stored"
            mend = "a schedule that ends earlier, or more steps"
            yield Finding("warning", f"{what} are never trained on", mend)
        elif late > ENDED:
            what = "β reaches 0 in the last tenth of the run only"
            here = f"(it is {late:.3g} at step {place:,} of {s.steps:,})"
            mend = "a schedule that ends earlier: SlimFlow's at 3/8 of the run"
            yield Finding("warning", f"{what} {here}", mend)


def beta(s: Subject) -> Anneal | None:
    """Return the callback that moves β, if there is one."""
    places = {
        f"objective.{name}.beta".replace("..", ".")
        for name, part in s.model.objective.named_modules()
        if isinstance(part, AnnealedReflow)
    }
    return next((anneal for anneal in s.callbacks(Anneal) if anneal.attribute in places), None)
