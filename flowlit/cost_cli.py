"""The door to costs: ``flowlit cost``."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from tqdm import tqdm

from .callbacks.report import FORMAT, processor
from .errors import FlowlitError
from .files import write_atomically
from .metrics.cost import Macs, Speed, count_macs, count_parameters, measure_speed
from .networks import fingerprint, pretrained
from .networks.files import Weights
from .networks.fragments import structure
from .networks.identity import identity
from .tables import aligned

YAML = (".yaml", ".yml")


def main(argv: Sequence[str]) -> int:
    """Print and draw what networks cost; return the exit code."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    models = read_models(arguments.file, arguments.weights)
    told = match(models, read_reports(arguments.records)) if arguments.records else ""
    device = torch.device(arguments.device)
    with tqdm(total=2 * (1 + arguments.repeats) * len(models), desc="Timing", unit=" calls", leave=False) as bar:
        for model in models:
            bar.set_postfix_str(model.name)
            model.speed = measure_speed(model.network, arguments.batch_size, arguments.repeats, device, bar.update)
            model.network.to("cpu")
    facts = machine(device, arguments.batch_size, arguments.repeats)
    if arguments.json:
        print(json.dumps({**facts, "networks": [model.plain() for model in models]}, indent=1))
    else:
        print(text(models, facts, told))
    if arguments.into:
        draw(models, Path(arguments.into))
        print(arguments.into, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowlit cost",
        description="Parameters, multiplications, latency and images per second of networks, beside recorded distances.",
    )
    parser.add_argument(
        "file", nargs="+", help="YAMLs with model.init_args.network (experiments/parts/unet_7m_32.yaml), checkpoints"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="of checkpoints")
    parser.add_argument("--batch_size", type=int, default=64, help="for images per second")
    parser.add_argument("--repeats", type=int, default=5, help="timed evaluations, of which the median counts")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--records", nargs="+", action="extend", metavar="FOLDER", help="look for metrics*.json in these folders")
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
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: PyTorch without CUDA
        raise FlowlitError(f"--device {arguments.device} cannot be used ({str(error).splitlines()[0]})") from error


# -- networks


@dataclass
class Model:
    """A network of which a file tells, and what is found of it."""

    name: str
    file: str
    network: nn.Module
    parameters: int
    macs: Macs
    speed: Speed | None = None
    records: list[Record] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        speed = self.speed._asdict() if self.speed else {}
        return {
            "name": self.name,
            "file": self.file,
            "parameters": self.parameters,
            "macs": {**self.macs._asdict(), "all": self.macs.all},
            **{key: float(f"{value:.6g}") for key, value in speed.items()},
            "records": [record.plain() for record in self.records],
        }


def read_models(files: Sequence[str], weights: Weights = "ema") -> list[Model]:
    """Build the network of each file, and count; in the order of their sizes.

    Raises:
        FlowlitError: naming the file, if one is missing, tells of no network, or of one that cannot be built or evaluated.
    """
    stems = [Path(file).stem for file in files]
    models = []
    for file, stem in zip(files, stems, strict=True):
        described = Path(file).suffix in YAML
        network = build(file, describe(file)) if described else pretrained(file, weights)
        network = network.requires_grad_(False).eval()
        try:
            macs = count_macs(network)
        except FlowlitError as error:
            raise FlowlitError(f"{file}: {error}") from error
        name = stem if described and stems.count(stem) == 1 else file
        models.append(Model(name, file, network, count_parameters(network), macs))
    return sorted(models, key=lambda model: (model.parameters, model.macs.all))


def describe(file: str) -> dict[str, Any]:
    """Read model.init_args.network of a YAML, ``${…}`` resolved.

    Raises:
        FlowlitError: if there is none.
    """
    try:
        content = yaml.safe_load(Path(file).read_text())
        network = OmegaConf.select(OmegaConf.create(content or {}), "model.init_args.network")
        found: Any = OmegaConf.to_container(network, resolve=True) if OmegaConf.is_config(network) else network
    except OSError as error:
        raise FlowlitError(f"{file} cannot be read ({error.strerror}); expected a YAML or a checkpoint") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise FlowlitError(f"{file} cannot be read as a configuration: {error}") from error
    if not isinstance(found, dict) or "class_path" not in found:
        raise FlowlitError(f"{file}: expected model.init_args.network with a class_path, found {found or 'none'}")
    return found


def build(file: str, description: dict[str, Any]) -> nn.Module:
    """Build a network as the other commands do.

    Raises:
        FlowlitError: naming the file and what is wrong.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    try:
        return parser.instantiate_classes(parser.parse_object({"network": description})).network
    except (ArgumentError, FlowlitError, ValueError, TypeError, ImportError) as error:
        raise FlowlitError(f"{file}: its network cannot be built: {error}") from error


# -- what was measured before


class Kind(NamedTuple):
    """Distances that may be compared: of so many images, in the same features, from the same real images."""

    name: str  # fid, or frechet_<features>
    images: int | None
    features: str | None
    reference: str | None

    def label(self, others: Sequence[Kind]) -> str:
        """The name and number of images, and of the rest what tells it from others of that name."""
        same = [other for other in others if other.name == self.name]
        told = [self.name] if self.images is None else [f"{self.name}, {self.images:,} images"]
        for part in ("features", "reference"):
            if len({getattr(other, part) for other in same}) > 1:
                told.append(f"{part} {str(getattr(self, part))[:8]}")
        return ", ".join(told)


class Distance(NamedTuple):
    """A Fréchet distance as a report has it."""

    value: float
    spread: float | None


@dataclass
class Record:
    """What a report tells of one solver."""

    file: str
    solver: str
    nfe: float | None
    distances: dict[Kind, Distance]

    def plain(self) -> dict[str, Any]:
        distances = [{**kind._asdict(), **distance._asdict()} for kind, distance in self.distances.items()]
        return {"file": self.file, "solver": self.solver, "nfe": self.nfe, "distances": distances}


def read_reports(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read every metrics*.json in and below folders; tell of what is something else.

    Raises:
        FlowlitError: if a folder does not exist.
    """
    found = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise FlowlitError(f"--records {folder}: no such folder; expected one with metrics.json in or below it")
        for path in sorted(Path(folder).rglob("metrics*.json")):
            try:
                report = json.loads(path.read_text())
            except (OSError, ValueError):
                report = None
            if isinstance(report, dict) and report.get("format") == FORMAT:
                found[str(path)] = report
            else:
                print(f"flowlit: {path} is not {FORMAT}, skipped", file=sys.stderr)
    return found


def match(models: Sequence[Model], reports: dict[str, dict[str, Any]]) -> str:
    """Give each model the records of its network; tell how many belonged to one."""
    matched = set()
    for model in models:
        belongs = _belongs(model)
        for file, report in reports.items():
            if belongs(report):
                matched.add(file)
                model.records += records(file, report)
    return f"{len(matched)} of {len(reports)} records are of these networks"


def _belongs(model: Model) -> Callable[[dict[str, Any]], bool]:
    """Ask whether a report is of a network: of the same architecture and, where weights were read, of the same weights."""
    network = model.network
    told, weights = identity(network), fingerprint(network) if getattr(network, "loaded", None) else None
    mine = _architecture({key: value for key, value in told.items() if key != "weights"})

    def belongs(report: dict[str, Any]) -> bool:
        if report.get("params") != model.parameters or (weights and report.get("sha256") != weights):
            return False
        return _architecture(report.get("built")) == mine

    return belongs


def _architecture(built: Any) -> Any:
    """How a network describes itself, or else its structure; without what only training sees."""
    described = built.get("spec") or built if isinstance(built, dict) else None
    return structure(json.loads(json.dumps(described)))


def records(file: str, report: dict[str, Any]) -> list[Record]:
    """The Fréchet distances of each solver of a report that has any."""
    metrics, spread, protocols = report.get("metrics", {}), report.get("spread", {}), report.get("features", {})
    found: dict[str, Record] = {}
    for tag, value in metrics.items():
        name, _, solver = tag.rpartition("/")
        if value is None or name.endswith("_half") or not (name == "fid" or name.startswith("frechet_")):
            continue
        protocol = protocols.get("inception" if name == "fid" else name.removeprefix("frechet_"), {})
        reference = protocol.get("reference", {}).get("sha256")
        kind = Kind(name, protocol.get("images", report.get("images")), protocol.get("sha256"), reference)
        record = found.setdefault(solver, Record(file, solver, metrics.get(f"nfe/{solver}"), {}))
        record.distances[kind] = Distance(value, spread.get(tag))
    return list(found.values())


# -- what is shown


def machine(device: torch.device, batch_size: int, repeats: int) -> dict[str, Any]:
    """What times depend on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()} ({device})",
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
projections (what they print of ADM), then also its matrix products (all that is multiplied)"""


def text(models: Sequence[Model], facts: dict[str, Any], told: str = "") -> str:
    """Tables of costs and of records, and what they depend on."""
    rows = [COLUMNS]
    for model in models:
        assert model.speed is not None
        macs, speed = model.macs, model.speed
        sums = (macs.layers, macs.layers + macs.projections, macs.all)
        latency = f"{1e3 * speed.latency:.1f} ± {1e3 * speed.spread:.1f}"
        rate = f"{speed.images_per_second:,.{0 if speed.images_per_second >= 100 else 1}f}"
        rows.append([model.name, f"{model.parameters:,}", *(_giga(count) for count in sums), latency, rate])
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    depends = f"{facts['device']}, {threads}, PyTorch {facts['torch']}, {facts['date']}"
    lines = [*aligned(rows), "", depends, CONVENTIONS.format(**facts)]
    if recorded := _recorded(models):
        lines += ["", *aligned(recorded)]
    return "\n".join([*lines, *([told] if told else [])])


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f}" if count >= 1e8 else f"{count / 1e9:.3g}"


def _recorded(models: Sequence[Model]) -> list[list[str]]:
    """A row for each network, report and solver; a column for each kind of distance. [] if there are none."""
    kinds = _kinds(models)
    rows = []
    for model in models:
        for record in model.records:
            cells = []
            for kind in kinds:
                found = record.distances.get(kind)
                spread = f" ± {found.spread:.2g}" if found and found.spread is not None else ""
                cells.append(f"{found.value:.5g}{spread}" if found else "–")
            nfe = "–" if record.nfe is None else f"{record.nfe:.4g}"
            rows.append([model.name, record.solver, nfe, *cells, record.file])
    return [["recorded", "solver", "NFE", *(kind.label(kinds) for kind in kinds), "in"], *rows] if rows else []


def _kinds(models: Sequence[Model]) -> list[Kind]:
    found = {kind for model in models for record in model.records for kind in record.distances}
    return sorted(found, key=lambda kind: tuple(map(str, kind)))


def draw(models: Sequence[Model], into: Path) -> None:
    """Write the picture of ``plot``."""
    picture = io.BytesIO()
    plot(models).savefig(picture, format="png", dpi=120)
    write_atomically(into, picture.getvalue())


def plot(models: Sequence[Model]) -> Any:
    """MACs against recorded distances, one panel for each kind; a line where a network has no such record."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    kinds = _kinds(models)
    panels: list[Kind | None] = [*kinds] or [None]
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set(xscale="log", yscale="log", xlabel="GMACs of one evaluation for one image, attention included")
        points: dict[str, list[tuple[Model, Distance]]] = {}
        for model in models:
            known = [record for record in model.records if kind in record.distances]
            for record in known:
                points.setdefault(record.solver, []).append((model, record.distances[cast(Kind, kind)]))
            if not known:
                axes.axvline(model.macs.all / 1e9, color="grey", linestyle="--", linewidth=0.8)
                words = {"s": f" {model.name}: not recorded", "rotation": 90, "fontsize": 7}
                axes.text(model.macs.all / 1e9, 0.02, **words, transform=axes.get_xaxis_transform())
        for solver, rows in points.items():
            x, y = [model.macs.all / 1e9 for model, _ in rows], [distance.value for _, distance in rows]
            axes.errorbar(x, y, [distance.spread or math.nan for _, distance in rows], fmt="o", capsize=3, label=solver)
            for i, (model, _) in enumerate(rows):
                axes.annotate(model.name, (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(LogFormatter())
            axis.set_minor_formatter(LogFormatter())
        axes.grid(alpha=0.3)
        if kind is None:
            axes.set_yticks([], minor=False)
            axes.set_yticks([], minor=True)
            axes.set(title="no distances recorded", ylabel="Fréchet distance")
        else:
            axes.set(title=kind.label(kinds), ylabel=kind.name)
            axes.legend(title="solver")
    return figure
