"""``flowlit cost``: parameters, multiplications and speed of networks, beside recorded distances."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Iterator
from pathlib import Path

from ...errors import FlowlitError
from ...ranges import PositiveInt


def cost(
    file: list[str],
    *,
    weights: str = "ema",
    batch_size: PositiveInt = 64,
    repeats: PositiveInt = 5,
    device: str = "cpu",
    records: list[str] = [],
    into: str | None = None,
    json: bool = False,
    trust: bool = False,
) -> Iterator[str]:
    """Measure parameters, multiplications, latency and images per second of networks.

    Args:
        file: YAMLs with model.init_args.network (experiments/parts/networks/unet_7m_32.yaml), checkpoints
        weights: of checkpoints: ema, raw, or the name of another average
        batch_size: for images per second
        repeats: timed evaluations, of which the median counts
        device: cpu, cuda, cuda:1 …
        records: look for metrics*.json in these folders
        into: a PNG, in which MACs are drawn against recorded distances
        json: everything as JSON instead of a table
        trust: build classes of your own, too
    """
    _check(repeats, into)
    from ..._support.files import write_figure
    from .measure import check_device, measure
    from .models import match, read_models
    from .plot import plot
    from .records import read_reports
    from .table import table

    check_device(device)
    models = read_models(file, weights, trust)
    matched = match(models, read_reports(records)) if records else ""
    facts = measure(models, device, batch_size, repeats)
    if into:
        write_figure(Path(into), plot(models), dpi=120)
    if json:
        yield json_.dumps({**facts, "networks": [model.plain() for model in models]}, indent=1)
    else:
        yield table(models, facts, matched)
    if into and json:
        print(into, file=sys.stderr)
    elif into:
        yield into


def _check(repeats: int, into: str | None) -> None:
    """Refuse what would fail after the work is done."""
    if repeats < 2:
        raise FlowlitError(f"--repeats {repeats}: expected 2 or more, since a spread is printed")
    if into and (Path(into).suffix != ".png" or Path(into).is_dir()):
        raise FlowlitError(f"--into {into}: expected the name of a PNG")
