"""Open everything that a run reads, and look at where it writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import torch

from ..._support.files import existing
from ...callbacks.evaluation.fid import FID
from ...couplings.store.encoding import codec_facts
from ...couplings.store.manifest import differences
from ...couplings.store.writer import Store
from ...data.classes import check_same_names, class_names_of
from ...errors import FlowlitError
from ...metrics import FirstAvailable
from ...metrics.frechet import few_images
from ...metrics.protocol import check_dimension, check_reference, read_otherwise
from ...metrics.reference import read_reference
from ...modules import FlowModule
from ...modules.classes import check_classes, names_of, trained_names
from ...modules.moments import check_moments
from ...networks.checkpoints.read import read_checkpoint
from ...types import ImageDataset
from ..couple import CoupleOptions, origin_of, stops_of
from .plan import steps_of, validations_of
from .subject import Finding, Subject


def look(subject: Subject, what: str, work: Callable[..., None], *arguments: Any) -> None:
    """Look at something by a function of the subject and arguments; an error that ends it is a problem."""
    try:
        work(subject, *arguments)
    except FlowlitError as error:
        subject.opened[what] = "not usable"
        subject.findings.append(Finding("problem", str(error)))


def open_data(subject: Subject) -> None:
    """Open the coupling, and divide its batch among devices."""
    data = copy(subject.data)
    data.trainer = subject.trainer  # type: ignore[assignment]
    if data.coupling is None:
        subject.opened["data"] = "no coupling, so nothing to train on; generation is looked at"
        return
    data.coupling = copy(data.coupling)
    data.setup("fit")
    subject.pairs = data.pairs
    rows = subject.rows or len(data.pairs)  # type: ignore[arg-type]
    subject.opened["data"] = f"{data.coupling.source}, {rows:,} rows"
    if subject.trained_images is not None:
        open_images(subject, subject.trained_images)
    subject.steps = steps = steps_of(subject.trainer, rows, data.batch_size)
    if steps is not None:
        subject.validations = validations_of(subject.trainer, steps)
        passes = steps * data.batch_size / rows
        number = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
        run = f"{steps:,} steps of {data.batch_size} samples, {number} passes over the data"
        subject.opened["run"] = run
    subject.share = data.global_batch().rows


def open_images(subject: Subject, images: ImageDataset, what: str = "images") -> None:
    """Show how many images there are, of which formats and modes, and what was left out or changed."""
    facts = images.facts()
    counts = {**facts.get("formats", {}), **facts.get("modes", {})} or {"images": len(images)}
    notes = images.summary().partition(" images; ")[2]
    texts = [", ".join(f"{count:,} {kind}" for kind, count in counts.items()), notes]
    subject.opened[what] = "; ".join(text for text in texts if text)


def open_store(subject: Subject, patient: Any, options: CoupleOptions) -> None:
    """Open what pairs begin from, and what the store already has."""
    stops = stops_of(subject.model, options)
    subject.pair_bytes = options.pair_bytes(origin_of(subject.model, subject.data, options))
    store = Store(options.store)
    check_writable(subject.writes or store.folder)
    if not store.empty():
        check_same_pairs(store, patient, options, stops.times if stops else None)
    subject.missing = options.missing(store)
    size = f"{subject.missing:,} of {options.num:,} pairs are to be made, in files of {options.shard_size:,}"
    subject.opened["store"] = f"{options.store}, {size}"
    if options.origin == "random":
        subject.validations = 0  # nothing is integrated


def check_same_pairs(store: Store, patient: Any, options: CoupleOptions, times: list[float] | None) -> None:
    """Refuse to add to a store that holds other pairs, as far as can be seen without making some.

    Raises:
        FlowlitError: naming every difference.
    """
    teacher = None if options.origin == "random" else patient.provenance()["teacher"]
    ours = {
        "origin": options.origin,
        "x0": options.x0,
        "x1": options.x1,
        "shard_size": options.shard_size,
        "teacher": teacher,
        "codec": codec_facts(patient.codec),
        "times": times,
    }
    if different := differences(store.manifest(), ours, tuple(ours), ("there", "now")):
        raise FlowlitError(
            f"{store.folder} already holds other pairs ({'; '.join(different)}). Choose another folder with "
            "--store, or remove it"
        )


def open_checkpoint(subject: Subject, patient: Any, path: str) -> None:
    """Read a checkpoint into a copy of the model, as going on from it would."""
    content = read_checkpoint(path)
    patient.on_load_checkpoint(content)
    if subject.options is None and content.get("optimizer_states"):
        check_moments(patient.players(), content["optimizer_states"])
    patient.load_state_dict(content["state_dict"])
    subject.resumes = True
    subject.opened["checkpoint"] = f"{path}, step {content.get('global_step', 0):,}"


def compare_classes(subject: Subject, patient: Any) -> None:
    """Refuse classes that have other numbers in validation or in the checkpoint, or that nothing trains."""
    data = copy(subject.data)
    data.pairs = subject.pairs
    names = trained_names(data)
    check_same_names(names_of(data.validation), names, "data.validation", "the training data")
    known = class_names_of(patient.network) if subject.resumes else None
    check_same_names(names, known, "the training data", "the checkpoint")
    if isinstance(patient, FlowModule):
        check_classes(patient.network, data)


def open_features(subject: Subject, fid: FID) -> None:
    """Extract features of a blank image, compare the reference with them, and count the images."""
    features = fid.features
    if subject.trains and fid.measures:
        what = "FID: in a fit there is the Fréchet distance only"
        subject.findings.append(Finding("problem", what, "leave measures to validate and test"))
    noise = subject.data.noise
    if noise is None:
        raise FlowlitError("FID needs noise to generate from: give data.noise (shape, num)")
    if isinstance(features, FirstAvailable) and features.missing():
        what = "no distance to real images will be measured"
        subject.findings.append(Finding("warning", what, features.missing()))
        subject.opened["features"] = "none are there"
        return
    with torch.no_grad():
        blank = subject.model.codec.decode(torch.zeros(1, *noise.shape))
        dimension = features.extract(blank).features.shape[1]
    few = few_images(dimension, generated=len(noise))
    if few:
        what, _, _ = few.partition(";")
        mend = f"--data.noise.num {max(10_000, 5 * dimension)}"
        subject.findings.append(Finding("warning", what, mend))
    real = fid.reference if isinstance(fid.reference, str) else f"{len(fid.reference):,} real images"
    if isinstance(fid.reference, str):
        reference = read_reference(fid.reference)
        check_reference(reference, features, blank.shape[1:])
        check_dimension(reference, dimension)
        images = subject.trained_images
        different = read_otherwise(reference, images.facts()) if images is not None else ""
        if different:
            what = f"{fid.reference} was read otherwise than the training images: {different}"
            subject.findings.append(Finding("warning", what, "make a reference of images read alike"))
    subject.opened[f"{features.name} features"] = f"{dimension}, against {real}"


def look_at_output(subject: Subject) -> None:
    """Refuse a folder that cannot be written, and look for an earlier run there."""
    folder = subject.folder
    if folder is None or not subject.trains:
        return
    check_writable(folder)
    state = "exists" if folder.exists() else "new"
    if (folder / "checkpoints" / "last.ckpt").exists():
        state = "holds a run already"
        mend = "to go on with it: flowlit fit … --resume auto"
        subject.findings.append(Finding("hint", f"{folder} {state}, which a new one puts aside", mend))
    subject.opened["output"] = f"{folder}, {state}"


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made.

    Raises:
        FlowlitError: naming what stands in the way.
    """
    place = existing(folder)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise FlowlitError(
            f"{folder} cannot be written ({place} is not a folder that you may write into); choose another"
        )


def look_at_files(subject: Subject, patient: Any, ckpt_path: str | None) -> None:
    """Open what a run reads; all of it, also if some is missing."""
    if ckpt_path is not None:
        look(subject, "checkpoint", open_checkpoint, patient, ckpt_path)
    if subject.options is None:
        look(subject, "data", open_data)
        look(subject, "classes", compare_classes, patient)
    else:
        look(subject, "store", open_store, patient, subject.options)
    if subject.data.validation is not None:
        look(subject, "validation images", open_images, subject.data.validation, "validation images")
    for fid in subject.callbacks(FID):
        look(subject, f"{fid.features.name} features", open_features, fid)
    look(subject, "output", look_at_output)
