"""Measure a training step and the generation of some images: bytes, seconds, NFE."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..._support.batch_invariance import BLOCK
from ..._support.machine import free_memory
from ...callbacks.training.anneal import Anneal
from ...callbacks.training.ema import EMA
from ...errors import FlowlitError
from ...frozen import Frozen
from ...metrics.cost import count_macs, inputs
from ...modules import FlowModule
from .measured import Made, Step, Work
from .probe import Launches, Watch, generate, kept_for_backward, nbytes, state_of, train
from .subject import Finding, Subject

BUDGET = 2.0
"""Seconds that one timed step, or one timed generation, may take."""


SMALL = 2
LARGER = 4
"""Samples to begin with."""


def measure(subject: Subject, patient: Any) -> None:
    """Train a copy of the model for a few steps, and generate with it; fill in what was measured."""
    subject.measured.free = free_memory(subject.trainer.strategy.root_device)
    failed: dict[str, list[str]] = defaultdict(list)
    if subject.pairs is not None:
        failed[attempt(measure_steps, subject, patient)].append("a training step")
    if subject.validations != 0:
        failed[attempt(measure_images, subject, patient)].append("validation")
    if subject.gpus:
        count_work(subject, patient)
    for known in ("", *(finding.what for finding in subject.findings)):
        failed.pop(known, None)
    texts = [f"{' and '.join(what)} failed: {error}" for error, what in failed.items()]
    subject.findings += [Finding("problem", text) for text in texts]


def attempt(work: Callable[[Subject, Any], None], subject: Subject, patient: Any) -> str:
    """Do some work; return what went wrong, '' if nothing did."""
    try:
        work(subject, patient)
    except FlowlitError as error:
        return str(error)
    except Exception as error:  # what goes wrong here goes wrong in the run, too
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ""


def measure_steps(subject: Subject, patient: Any) -> None:
    """Measure what training needs: memory with two small batches, time with one that may be larger."""
    measured = subject.measured
    # what is wrong with them, and further averages
    moving: list[Callback] = [*subject.callbacks(Anneal), *subject.callbacks(EMA)]
    for callback in moving:
        callback.setup(subject.trainer, patient, "fit")
    bytes_kept = [memory_of_a_step(subject, patient, samples) for samples in (SMALL, LARGER)]
    measured.activations = statistics.linear_regression((SMALL, LARGER), bytes_kept)
    measured.frozen = sum(nbytes(state_of(network)) for network in frozen_in(subject, patient))
    if getattr(subject.data.coupling, "resident", False) and subject.stored is not None:
        x0, x1, cond = subject.stored[0]
        measured.resident = (subject.rows or 0) * nbytes([x0, x1, *cond.values()])
    samples = min(LARGER, subject.share)
    while True:
        measured.step = time_steps(subject, patient, samples)
        larger = affordable(measured.step.seconds, samples, subject.share)
        if larger < 2 * samples or (measured.memory(larger) or 0) > measured.free / 2:
            break
        samples = larger


def count_work(subject: Subject, patient: Any) -> None:
    """Count the work of a step, of teachers on the fly, too, and of an evaluation, where that is possible."""
    measured = subject.measured
    if measured.step is not None:
        # by matrix products: PyTorch's counter has no formula for some fused kernels of attention
        with sdpa_kernel(SDPBackend.MATH), Launches() as launches, FlopCounterMode(display=False) as flops:
            watch = Watch(copy(measured), lambda: (flops.get_total_flops(), launches.count))
            train(subject, patient, watch, SMALL, steps=2)
        batches = batches_of(patient)
        first, second = watch.times[-1 - batches :: batches]  # the first step has what is done once
        measured.trained = Work((second[0] - first[0]) / SMALL / batches, (second[1] - first[1]) / batches)
    if isinstance(patient, FlowModule):
        network = patient.velocity()
        with suppress(FlowlitError), torch.no_grad():  # it has no shape
            flops_an_image = 2 * count_macs(network).all
            device = next((parameter.device for parameter in network.parameters()), "cpu")
            with Launches() as launches:
                network(*inputs(network, 1, device))
            measured.evaluated = Work(flops_an_image, launches.count)


def memory_of_a_step(subject: Subject, patient: Any, samples: int) -> int:
    """Note the state after one step; return the bytes that were kept for the backward pass."""
    watch = Watch(subject.measured)
    with kept_for_backward(watch.known) as watch.kept:
        train(subject, patient, watch, samples)
    return watch.most


def time_steps(subject: Subject, patient: Any, samples: int) -> Step:
    """Time some steps after the first, whole: reading pairs, completing them, and the optimizer's update."""
    watch = Watch(subject.measured)
    device = subject.trainer.strategy.root_device
    if cuda := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    data = train(subject, patient, watch, samples, steps=4)
    if cuda:
        subject.measured.peak = samples, torch.cuda.max_memory_allocated(device)
    batches = batches_of(patient)
    each = [(end - begin) / batches for begin, end in pairwise(watch.times[batches - 1 :: batches])]
    return Step(samples, statistics.median(each), data.coupling_seconds())


def batches_of(patient: Any) -> int:
    """Return the batches of a step, each of one network's turn, of which some cost more than others."""
    return getattr(patient, "global_batches", 1)


def affordable(seconds: float, samples: int, most: int) -> int:
    """Return the samples that the budget allows if ``samples`` took so many seconds.

    >>> affordable(0.5, 4, 128), affordable(1e-3, 4, 128)
    (16, 128)
    """
    return min(most, int(samples * BUDGET / max(seconds, 1e-9)))


def measure_images(subject: Subject, patient: Any) -> None:
    """Generate with every solver, as validation does."""
    solvers = getattr(patient, "solvers", {"": None})
    if subject.options is not None:  # the first makes pairs
        solvers = dict(list(solvers.items())[:1])
    for name, solver in solvers.items():
        if solver is not None:
            patient.solvers = {name: solver}
        most = images_at_a_time(subject)
        # a GPU takes as long for few; a CPU computes whole blocks, and fewer samples are padded to one
        samples = most if subject.trainer.strategy.root_device.type != "cpu" else min(BLOCK, most)
        while samples:
            timed = generated(subject, patient, name, samples)
            subject.measured.made[name] = timed
            samples = larger_batch(timed, most)


def larger_batch(made: Made, most: int) -> int:
    """Return how many samples to time next: all that the run takes at a time, if the budget allows, or whole
    blocks at least twice as many as before; 0 if there is nothing more to gain.

    >>> larger_batch(Made(16, 0.1, 1, 1000), 1000), larger_batch(Made(16, 0.1, 1, 24), 24)
    (320, 24)
    >>> larger_batch(Made(16, 1.5, 1, 1000), 1000), larger_batch(Made(24, 0.1, 1, 24), 24)
    (0, 0)
    """
    samples = affordable(made.seconds, made.samples, most)
    if samples == most:
        return most if most > made.samples else 0
    samples -= samples % BLOCK
    return samples if samples >= 2 * made.samples else 0


def images_at_a_time(subject: Subject) -> int:
    """Samples of a batch of validation."""
    if subject.options is not None:
        return min(subject.options.batch_size, max(1, subject.missing))
    rows = subject.data.noise if subject.data.validation is None else subject.data.validation
    return min(subject.data.noise_batch_size, 1 if rows is None else len(rows))  # type: ignore[arg-type]


def generated(subject: Subject, patient: Any, name: str, samples: int) -> Made:
    """Generate one batch, and decode it as evaluation does.

    Raises:
        FlowlitError: if what comes out is not finite, or decoded to no images.
    """
    watch = generate(subject, patient, samples)
    taken = watch.times[-1] - watch.times[-2]
    most = images_at_a_time(subject)
    solution = (watch.outputs or {}).get("solutions", {}).get(name)
    if solution is None:
        return Made(samples, taken, 0.0, most)
    decoded = patient.codec.decode(solution.x1)
    if not isinstance(decoded, Tensor) or decoded.dtype != torch.uint8:
        raise FlowlitError(
            f"the codec {type(patient.codec).__name__} returns {decoded.dtype} images; expected uint8"
        )
    return Made(samples, taken, float(solution.nfe.double().mean()), most)


def frozen_in(subject: Subject, patient: Any) -> set[nn.Module]:
    """Guides, teachers and perceptual networks that stay on the device."""
    owners = [*patient.modules(), subject.data.coupling]
    values = [value for owner in owners for value in vars(owner).values()]
    return {value.network for value in values if isinstance(value, Frozen)}
