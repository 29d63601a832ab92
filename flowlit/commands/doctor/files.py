"""Open everything that a run reads, and look at where it writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..._support.files import existing
from ...callbacks.evaluation.fid import FID
from ...couplings.store.encoding import codec_facts
from ...couplings.store.manifest import differences, plan
from ...couplings.store.writer import Store
from ...errors import FlowlitError
from ...metrics.protocol import check_dimension, check_reference
from ...metrics.reference import read_reference
from ...networks.checkpoints.read import read_checkpoint
from ..couple import CoupleOptions, origin_of
from .plan import output_folder, steps_of, validations_of
from .subject import Finding, Subject


class File(NamedTuple):
    """Something that was opened, and its state."""

    what: str
    found: str


Looked = Iterator[File | Finding]


def looked(what: str, look: Callable[[], Looked]) -> Looked:
    """Yield the results of a look, up to the error that ends it, which is a problem."""
    try:
        yield from look()
    except FlowlitError as error:
        yield File(what, "not usable")
        yield Finding("problem", str(error), "")


def open_data(subject: Subject) -> Looked:
    """Open the coupling, and divide its batch among devices."""
    data = copy(subject.data)
    data.trainer = subject.trainer  # type: ignore[assignment]
    if data.coupling is None:
        yield File("data", "no coupling, so nothing to train on; generation is looked at")
        return
    data.coupling = copy(data.coupling)
    data.setup("fit")
    subject.pairs = data.pairs
    rows = len(data.pairs)  # type: ignore[arg-type]
    yield File("data", f"{data.coupling.source}, {rows:,} rows")
    subject.steps = steps_of(subject.trainer, rows, data.batch_size)
    if subject.steps is not None:
        subject.validations = validations_of(subject.trainer, subject.steps)
        passes = subject.steps * data.batch_size / rows
        number = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
        yield File(
            "run", f"{subject.steps:,} steps of {data.batch_size} samples, {number} passes over the data"
        )
    subject.share = data.global_batch().rows


def open_store(subject: Subject, patient: Any, options: CoupleOptions) -> Looked:
    """Open what pairs begin from, and what the store already has."""
    origin_of(subject.model, subject.data, options)
    store = Store(options.store)
    check_writable(store.folder)
    if not store.empty():
        check_same_pairs(store, patient, options)
    shards = plan(store.counts(options.num), options.shard_size)
    subject.missing = sum(shard.rows for shard in shards if not (store.folder / shard.file).exists())
    size = f"{subject.missing:,} of {options.num:,} pairs are to be made, in files of {options.shard_size:,}"
    yield File("store", f"{options.store}, {size}")
    if options.origin == "random":
        subject.validations = 0  # nothing is integrated


def check_same_pairs(store: Store, patient: Any, options: CoupleOptions) -> None:
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
    }
    if different := differences(store.manifest(), ours, tuple(ours), ("there", "now")):
        raise FlowlitError(
            f"{store.folder} already holds other pairs ({'; '.join(different)}). Choose another folder with "
            "--store, or remove it"
        )


def open_checkpoint(patient: Any, path: str) -> Looked:
    """Read a checkpoint into a copy of the model, as going on from it would."""
    content = read_checkpoint(path)
    patient.on_load_checkpoint(content)
    patient.load_state_dict(content["state_dict"])
    yield File("checkpoint", f"{path}, step {content.get('global_step', 0):,}")


def open_features(subject: Subject, fid: FID) -> Looked:
    """Have features extracted from a blank image, and compare the reference with them."""
    if subject.data.noise is None:
        raise FlowlitError("FID needs noise to generate from: give data.noise (shape, num)")
    with torch.no_grad():
        blank = subject.model.codec.decode(torch.zeros(1, *subject.data.noise.shape))
        dimension = fid.features.extract(blank).features.shape[1]
    subject.dimensions[fid.features.name] = dimension
    if not isinstance(fid.reference, str):
        yield File(
            f"{fid.features.name} features", f"{dimension}, against {len(fid.reference):,} real images"
        )
        return
    reference = read_reference(fid.reference)
    check_reference(reference, fid.features, blank.shape[1:])
    check_dimension(reference, dimension)
    yield File(f"{fid.features.name} features", f"{dimension}, against {fid.reference}")


def look_at_output(subject: Subject) -> Looked:
    """Refuse a folder that cannot be written, and look for an earlier run there."""
    folder = output_folder(subject.trainer)
    if folder is None or not subject.trains:
        return
    check_writable(folder)
    last = Path(folder) / "checkpoints" / "last.ckpt"
    state = "exists" if folder.exists() else "new"
    yield File("output", f"{folder}, {'holds a run already' if last.exists() else state}")


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


def look_at_files(subject: Subject, patient: Any, ckpt_path: str | None) -> tuple[list[File], list[Finding]]:
    """Open what a run reads; all of it, also if some is missing."""
    looks: list[tuple[str, Callable[[], Looked]]] = []
    if ckpt_path is not None:
        looks.append(("checkpoint", lambda: open_checkpoint(patient, ckpt_path)))
    options = subject.options
    if options is not None:
        looks.append(("store", lambda: open_store(subject, patient, options)))
    else:
        looks.append(("data", lambda: open_data(subject)))
    for fid in subject.callbacks(FID):
        looks.append((f"{fid.features.name} features", lambda fid=fid: open_features(subject, fid)))  # type: ignore[misc]
    looks.append(("output", lambda: look_at_output(subject)))
    results = [one for what, look in looks for one in looked(what, look)]
    files = [one for one in results if isinstance(one, File)]
    return files, [one for one in results if isinstance(one, Finding)]
