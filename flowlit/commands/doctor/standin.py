"""Results that stand in for those that stages have not made yet, so that later stages can be looked at.

A checkpoint has first weights, and a store some noise in place of images: shapes, sizes and names are those
of the results to come.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..._support.files import write_atomically
from ..._version import __version__
from ...couplings.store.encoding import pack
from ...couplings.store.text_writer import write_text
from ...couplings.store.writer import Store
from ...types import Pair
from ..couple import identity_of, origin_of, stops_of
from ..couple.writer import identity_of_ends
from .subject import PLANNED, Subject

PAIRS = 2048
"""Pairs that stand in for more."""


def stand_in(subject: Subject, patient: Any, path: Path) -> None:
    """Write what stands in for the result of a stage.

    Args:
        subject: that was examined.
        patient: the copy of its model.
        path: of the checkpoint, or of the manifest of a store.
    """
    path.parent.mkdir(parents=True)
    if subject.options is None:
        content: dict[str, Any] = {"state_dict": patient.state_dict(), "global_step": 0}
        patient.on_save_checkpoint(content)
        write_atomically(path, lambda file: torch.save(content, file))
    else:
        write_pairs(subject, patient, path.parent)


def write_pairs(subject: Subject, patient: Any, folder: Path) -> None:
    """Write a store of pairs of a model, whose computed ends are noise."""
    given = subject.options
    assert given is not None
    options = replace(given, store=str(folder), num=min(given.num, PAIRS))
    origin = origin_of(patient, subject.data, options)
    stops = stops_of(patient, options)
    counts = [options.num]
    identity = {
        **identity_of_ends(origin, options, counts),
        **identity_of(patient, origin, options, stops),
    }
    store = Store(folder)
    with store.writing():
        store.begin(identity, counts, {"flowlit": __version__, PLANNED: given.num})
        if origin.prompted is not None:
            write_text(folder, origin.prompted, counts, torch.device("cpu"))
        for shard in store.missing():
            index, x0, x1, cond = origin.rows(range(shard.first, shard.first + shard.rows))
            noise = torch.randn(
                shard.rows, *origin.shape, generator=torch.Generator().manual_seed(shard.number)
            )
            ends = noise if x0 is None else x0, noise.tanh() if x1 is None else x1
            pair = Pair(*ends, origin.stored(index, cond))
            nfe = torch.zeros(shard.rows, dtype=torch.int64)
            path = stops and pair.x1[:, None].expand(-1, len(stops.places), -1, -1, -1)
            store.write_shard(shard, *pack(index, pair, nfe, origin.seed, options.x0, options.x1, path))
        store.finish()
