"""The door to costs: ``flowlit cost``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..._support.formatting import aligned
from ..._support.machine import processor
from ...errors import FlowlitError
from ...metrics.speed import measure_speed
from .models import Model, kinds_of, match, read_models
from .plot import draw
from .records import RecordedDistance, read_reports


def main(argv: Sequence[str]) -> int:
    """Print and draw what networks cost; return the exit code."""
    arguments = make_parser().parse_args(argv)
    _check(arguments)
    models = read_models(arguments.file, arguments.weights)
    told = match(models, read_reports(arguments.records)) if arguments.records else ""
    facts = measure(models, torch.device(arguments.device), arguments.batch_size, arguments.repeats)
    if arguments.json:
        print(json.dumps({**facts, "networks": [model.plain() for model in models]}, indent=1))
    else:
        print(text(models, facts, told))
    if arguments.into:
        draw(models, Path(arguments.into))
        print(arguments.into, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowlit cost",
        description=(
            "Parameters, multiplications, latency and images per second of networks, beside recorded "
            "distances."
        ),
    )
    parser.add_argument(
        "file",
        nargs="+",
        help="YAMLs with model.init_args.network (experiments/parts/networks/unet_7m_32.yaml), checkpoints",
    )
    parser.add_argument(
        "--weights", default="ema", help="of checkpoints: ema, raw, or the name of another average"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="for images per second")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed evaluations, of which the median counts"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument(
        "--records",
        nargs="+",
        action="extend",
        metavar="FOLDER",
        help="look for metrics*.json in these folders",
    )
    parser.add_argument("--into", metavar="PNG", help="draw MACs against recorded distances")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of a table")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail after the work is done."""
    if arguments.batch_size < 1:
        raise FlowlitError(f"--batch_size {arguments.batch_size}: expected 1 or more")
    if arguments.repeats < 2:
        raise FlowlitError(f"--repeats {arguments.repeats}: expected 2 or more, since a spread is told")
    if arguments.into and (Path(arguments.into).suffix != ".png" or Path(arguments.into).is_dir()):
        raise FlowlitError(f"--into {arguments.into}: expected the name of a PNG")
    try:
        torch.empty(1, device=arguments.device).cpu()
    except (
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ) as error:  # AssertionError: PyTorch without CUDA
        raise FlowlitError(
            f"--device {arguments.device} cannot be used ({str(error).splitlines()[0]})"
        ) from error


def measure(models: Sequence[Model], device: torch.device, batch_size: int, repeats: int) -> dict[str, Any]:
    """Time each network, showing progress; return what times depend on."""
    with tqdm(total=2 * (1 + repeats) * len(models), desc="Timing", unit=" calls", leave=False) as bar:
        for model in models:
            bar.set_postfix_str(model.name)
            model.speed = measure_speed(model.network, batch_size, repeats, device, bar.update)
            model.network.to("cpu")
    return machine(device, batch_size, repeats)


def machine(device: torch.device, batch_size: int, repeats: int) -> dict[str, Any]:
    """What times depend on."""
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{processor()} ({device})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": batch_size,
        "repeats": repeats,
    }


COLUMNS = ["network", "parameters", "GMACs", "+ projections", "+ products", "latency, ms", "images/s"]


CONVENTIONS = """\
latency of one image, images/s in batches of {batch_size}: medians of {repeats}, ± half the distance between quartiles
GMACs for one image: convolutions and linear layers outside attention (what papers print of DDPM++), then also its
projections (what they print of ADM), then also its matrix products (all that is multiplied)"""  # noqa: E501


def text(models: Sequence[Model], facts: dict[str, Any], told: str = "") -> str:
    """Tables of costs and of records, and what they depend on."""
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    depends = f"{facts['device']}, {threads}, PyTorch {facts['torch']}, {facts['date']}"
    lines = [*aligned([COLUMNS, *map(_row, models)]), "", depends, CONVENTIONS.format(**facts)]
    if recorded := _recorded(models):
        lines += ["", *aligned(recorded)]
    return "\n".join([*lines, *([told] if told else [])])


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
    """A row for each network, report and solver; a column for each kind of distance. [] if there are none."""
    kinds = kinds_of(models)
    rows = []
    for model in models:
        for record in model.records:
            nfe = "–" if record.nfe is None else f"{record.nfe:.4g}"
            cells = [_in_words(record.distances.get(kind)) for kind in kinds]
            rows.append([model.name, record.solver, nfe, *cells, record.file])
    return (
        [["recorded", "solver", "NFE", *(kind.label(kinds) for kind in kinds), "in"], *rows] if rows else []
    )


def _in_words(distance: RecordedDistance | None) -> str:
    if distance is None:
        return "–"
    return f"{distance.value:.5g}" + (f" ± {distance.spread:.2g}" if distance.spread is not None else "")
