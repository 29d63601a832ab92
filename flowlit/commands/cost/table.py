"""The tables of ``flowlit cost``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._support.formatting import aligned, number_or_dash
from ...metrics.report import Estimate
from .models import Model, kinds_of

COLUMNS = ["network", "parameters", "GMACs", "+ projections", "+ products", "latency, ms", "images/s"]


CONVENTIONS = """\
latency of one image, images/s in batches of {batch_size}: medians of {repeats}, ± half the distance between quartiles
GMACs for one image: convolutions and linear layers outside attention (what papers print of DDPM++), then also its
projections (what they print of ADM), then also its matrix products (all that is multiplied)"""  # noqa: E501


def table(models: Sequence[Model], facts: dict[str, Any], matched: str = "") -> str:
    """Return the table of costs, what times depend on, and the table of records, if there are any."""
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    depends = f"{facts['device']}, {threads}, PyTorch {facts['torch']}, {facts['date']}"
    lines = [*aligned([COLUMNS, *map(_row, models)]), "", depends, CONVENTIONS.format(**facts)]
    if recorded := _recorded(models):
        lines += ["", *aligned(recorded)]
    return "\n".join([*lines, *([matched] if matched else [])])


def _row(model: Model) -> list[str]:
    assert model.speed is not None
    macs = model.macs
    speed = model.speed
    sums = (macs.layers, macs.layers + macs.projections, macs.all)
    latency = f"{1e3 * speed.latency:.1f} ± {1e3 * speed.spread:.1f}"
    rate = f"{speed.images_per_second:,.{0 if speed.images_per_second >= 100 else 1}f}"
    return [model.name, f"{model.parameters:,}", *map(_giga, sums), latency, rate]


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.3g}"


def _recorded(models: Sequence[Model]) -> list[list[str]]:
    """Return a row for each network, report and solver, with a column for each kind of distance."""
    kinds = kinds_of(models)
    rows = []
    for model in models:
        for record in model.records:
            nfe = number_or_dash(record.nfe, ".4g")
            cells = [_distance(record.distances.get(kind)) for kind in kinds]
            rows.append([model.name, record.solver, nfe, *cells, record.file])
    header = ["recorded", "solver", "NFE", *(kind.label(kinds) for kind in kinds), "in"]
    return [header, *rows] if rows else []


def _distance(distance: Estimate | None) -> str:
    if distance is None:
        return "–"
    spread = "" if distance.spread is None else f" ± {distance.spread:.2g}"
    return f"{distance.value:.5g}{spread}"
