"""What is suspicious in a configuration: a function for each suspicion. ``CHECKS`` lists them all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from ..._support.files import existing
from ..._support.formatting import duration, size
from ...callbacks.evaluation.fid import FID
from ...callbacks.training.anneal import Anneal
from ...callbacks.training.ema import EMA
from ...couplings import Cached, Simulated
from ...couplings.store import encoding
from ...couplings.store.reader import StoredPairs
from ...metrics import Inception
from ...modules import FlowModule, OneStepStudent, ReflowStudent
from ...networks.checkpoints.fingerprint import fingerprint
from ...objectives import AnnealedReflow, FlowGuided
from ...types import ImageDataset, loaded_of
from .mirror import FEWEST, MOST, asymmetry, bound
from .plan import interval, kept, output_folder
from .subject import Finding, Subject

SHARDING = (FSDPStrategy, ModelParallelStrategy)
"""Strategies under which a device holds a part of what was measured."""


ENDED = 1e-3
"""β below this counts as 0."""


OLD = 0.05
"""Share of the weights at the beginning that an average may still hold at the end."""


BATCHES = 10
"""A set of pairs should hold so many batches."""


PASSES = 2000
"""More passes over the same pairs than the longest published run makes."""


HOUR = 3600


Check = Callable[[Subject], Finding | None]


def no_average(s: Subject) -> Finding | None:
    if s.trains and isinstance(s.model, FlowModule) and not s.callbacks(EMA):
        return Finding(
            "warning",
            "no average of the weights is kept; the last weights will generate",
            "add flowlit.callbacks.EMA",
        )
    return None


def average_of_old_weights(s: Subject) -> Finding | None:
    """The profile's decays multiply to the share of the first weights that is left at the end."""
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
    """An average that forgets within a thousandth of the run is little else than the last weights."""
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
    """Guide, and a student that begins from other weights, should be the flow whose pairs these are."""
    if not isinstance(s.model, OneStepStudent):
        return None
    known = sorted({m["teacher"]["sha256"] for m in s.manifests if m["teacher"] and "sha256" in m["teacher"]})
    network = s.model.network
    begun = {"the student begins from": network} if loaded_of(network) else {}
    for what, other in [*(("the guide is", guide) for guide in s.guides()), *begun.items()]:
        if known and (found := fingerprint(other)) not in known:
            told = (
                f"{what} another network ({found[:8]}…) than the one whose pairs these are ({known[0][:8]}…)"
            )
            return Finding(
                "warning",
                told,
                "make the couplings with that network (flowlit couple), or name the one that made them",
            )
    return None


def random_pairs(s: Subject) -> Finding | None:
    random = "random" in {m["origin"] for m in s.manifests}
    if random and isinstance(s.model, (ReflowStudent, OneStepStudent)):
        what = "these pairs put noise and images together at random; no flow carries one to the other"
        return Finding("warning", what, "flowlit couple without --origin random")
    return None


def beta(s: Subject) -> Anneal | None:
    """The callback that moves β, if there is one."""
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
    if not s.steps or not s.objectives(AnnealedReflow) or (anneal := beta(s)) is None:
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


def some_images(pairs: Any, most: int = MOST) -> Tensor | None:
    """x1 of rows from all over a data set, (N, C, H, W); None if they would have to be made first."""
    source = getattr(pairs, "pairs", pairs)
    if not isinstance(source, (StoredPairs, ImageDataset)):
        return None
    rows = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)).tolist()
    if isinstance(source, StoredPairs):
        if source.codec is not None:  # no pixels, which flips would mirror
            return None
        return encoding.restored(source.__getitems__(rows).x1)
    return torch.stack([source[row]["x1"] for row in rows]).float()


def mirror(s: Subject) -> Finding | None:
    """Flips are right for data that are symmetric, and double it."""
    flip = getattr(s.data.coupling, "flip", None)
    images = some_images(s.pairs) if flip is not None else None
    if images is None or len(images) < FEWEST:
        return None
    found = asymmetry(images)
    most = bound(images[0].numel())
    told = (
        f"(mean image against its mirror image: {found:.1f} standard errors in {len(images)} images, "
        f"{most:.1f} by chance)"
    )
    if flip and found > most:
        return Finding(
            "warning", f"flip: true, but these images are not symmetric {told}", "--data.coupling.flip false"
        )
    if not flip and found <= bound(images[0].numel(), 0.05):
        what = f"these images look as likely in a mirror {told}, and flips would double them"
        return Finding(
            "hint",
            what,
            "--data.coupling.flip true, unless they show text, or their teacher was trained without",
        )
    return None


def few_pairs(s: Subject) -> Finding | None:
    if s.rows is None or not isinstance(s.data.coupling, (Cached, Simulated)):
        return None
    passes = (s.steps or 0) * s.data.batch_size / s.rows
    if s.rows < BATCHES * s.data.batch_size or passes > PASSES:
        what = (
            f"{s.rows:,} pairs are {s.rows / s.data.batch_size:.3g} batches, and the run passes over them "
            f"{passes:,.0f} times"
        )
        return Finding("warning", what, "more pairs: flowlit couple … --num")
    return None


def seen_noise(s: Subject) -> Finding | None:
    """Noise i of a seed is always the same, whoever draws it."""
    seeds = {seed for m in s.manifests for seed in m["seeds"]}
    if isinstance(s.data.coupling, Simulated):
        seeds.add(s.data.coupling.noise.seed)
    if s.options is not None and s.options.origin != "data":
        seeds.add(s.options.seed)
    if s.data.noise is not None and s.data.noise.seed in seeds:
        what = (
            f"data.noise and the pairs have the same seed {s.data.noise.seed}: validation would show what "
            "was trained on"
        )
        return Finding("warning", what, "another seed for one of them")
    return None


def no_seed(s: Subject) -> Finding | None:
    if s.trains and "PL_GLOBAL_SEED" not in os.environ:
        return Finding(
            "warning",
            "seed_everything: false draws other first weights each time",
            "seed_everything: 0, or any number",
        )
    return None


def not_saved(s: Subject) -> Finding | None:
    if s.trains and not s.trainer.checkpoint_callbacks:
        return Finding(
            "warning",
            "no checkpoint is kept: what is trained is lost",
            "add flowlit.callbacks.LastCheckpoint",
        )
    return None


def seldom_saved(s: Subject) -> Finding | None:
    """A kill may cost an hour, or a tenth of the run if that is longer."""
    seconds = s.seconds_a_step
    if not s.steps or seconds is None or not s.trainer.checkpoint_callbacks:
        return None
    found = [interval(callback, s.steps, s.validations) for callback in s.trainer.checkpoint_callbacks]  # type: ignore[arg-type]
    if any(steps is None for steps in found):
        return None
    lost = min(steps for steps in found if steps is not None)
    if lost * seconds > max(HOUR, 0.1 * s.steps * seconds):
        what = f"checkpoints are {lost:,} steps apart: a kill costs up to {duration(lost * seconds)}"
        return Finding("warning", what, "flowlit.callbacks.LastCheckpoint with a smaller every_n_train_steps")
    return None


def never_validated(s: Subject) -> Finding | None:
    if s.trains and s.validations == 0:
        meant = s.trainer.limit_val_batches == 0
        what = (
            "limit_val_batches: 0"
            if meant
            else f"val_check_interval {s.trainer.val_check_interval} is beyond the run"
        )
        return Finding(
            "hint" if meant else "warning",
            f"the run never validates ({what})",
            "look at images before it ends",
        )
    return None


def few_images(s: Subject) -> Finding | None:
    """With as many images as features or fewer the covariance is singular, and the distance too large."""
    for fid in s.callbacks(FID):
        name = fid.features.name
        num = len(s.data.noise) if s.data.noise else 0
        if (
            0
            < num
            <= (dimension := s.dimensions.get(name, 2048 if isinstance(fid.features, Inception) else 0))
        ):
            what = (
                f"{num:,} images for {dimension:,} {name} features: the distance is too large, and compares "
                "with nothing"
            )
            return Finding("warning", what, f"--data.noise.num {max(10_000, 5 * dimension)}")
    return None


def misplaced_measures(s: Subject) -> Finding | None:
    if s.trains and any(fid.measures for fid in s.callbacks(FID)):
        return Finding(
            "problem",
            "FID: in a fit there is the Fréchet distance only",
            "leave measures to validate and test",
        )
    return None


def too_little_memory(s: Subject) -> Finding | None:
    needed = s.measured.memory(s.share)
    here = s.trainer.num_devices if s.trainer.strategy.root_device.type == "cpu" else 1
    if needed is None or here * needed <= s.measured.free or isinstance(s.trainer.strategy, SHARDING):
        return None
    what = (
        f"a step with {s.share} samples needs {size(here * needed)} at least, and {size(s.measured.free)} "
        "are free"
    )
    return Finding(
        "problem", what, f"--data.device_batch_size {max(1, s.share // 2)}: the same batch in smaller parts"
    )


def too_little_disk(s: Subject) -> Finding | None:
    folder = output_folder(s.trainer)
    if folder is None or s.steps is None or s.measured.checkpoint is None:
        return None
    needed = (files_kept(s) + 1) * s.measured.checkpoint  # and one that is being written
    if needed <= (free := shutil.disk_usage(existing(folder)).free):
        return None
    what = (
        f"{files_kept(s)} checkpoints, and the one being written, of {size(s.measured.checkpoint)} need "
        f"{size(needed)}; "
        f"{size(free)} are free in {folder}"
    )
    return Finding(
        "problem",
        what,
        "free some, write elsewhere (--vars.root), or keep fewer (save_top_k of ModelCheckpoint)",
    )


def no_room_for_pairs(s: Subject) -> Finding | None:
    if s.options is None:
        return None
    place = existing(Path(s.options.store))
    needed = s.missing * pair_bytes(s)
    if needed <= (free := shutil.disk_usage(place).free):
        return None
    what = f"{s.missing:,} pairs need {size(needed)}, and {size(free)} are free in {s.options.store}"
    return Finding(
        "problem", what, "free some, choose another --store, or store them smaller: --x0 seed --x1 uint8"
    )


def pair_bytes(s: Subject) -> int:
    """Of the pairs that are to be made."""
    noise = s.data.noise
    if s.options is None or noise is None:
        return 0
    conditions = sum(value.nbytes for value in noise.batch([0]).cond.values())
    return encoding.pair_bytes(noise.shape, s.options.x0, s.options.x1, conditions)


def files_kept(s: Subject) -> int:
    """Checkpoints at the end of the run."""
    callbacks: list[Any] = s.trainer.checkpoint_callbacks
    return sum(kept(callback, s.steps or 0, s.validations) for callback in callbacks)


def run_before(s: Subject) -> Finding | None:
    folder = output_folder(s.trainer)
    last = folder and folder / "checkpoints" / "last.ckpt"
    if s.trains and last and last.exists():
        return Finding(
            "hint",
            f"{folder} holds a run already, which a new one replaces",
            "to go on with it: flowlit fit … --resume auto",
        )
    return None


CHECKS: list[Check] = [
    too_little_memory,
    too_little_disk,
    no_room_for_pairs,
    misplaced_measures,
    no_average,
    average_of_old_weights,
    average_of_few_steps,
    low_precision,
    not_annealed,
    annealed_too_long,
    random_pairs,
    other_teacher,
    few_pairs,
    seen_noise,
    mirror,
    few_images,
    never_validated,
    not_saved,
    seldom_saved,
    no_seed,
    no_guide,
    run_before,
]
