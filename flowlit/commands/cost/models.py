"""Networks and their costs, with what was recorded of them: a row for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import FlowlitError
from ...metrics.cost import Macs, count_macs, count_parameters
from ...metrics.report import Kind, Record
from ...metrics.speed import Speed
from ...networks import pretrained
from ...networks.checkpoints.contents import Weights
from .._yaml import build_network
from .._yaml.trust import only_packages, trusted
from .records import Reports, belonging

YAML = (".yaml", ".yml")


@dataclass
class Model:
    """The network of a file, its costs, and the records of it."""

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


def read_models(files: Sequence[str], weights: Weights = "ema", trust: bool = False) -> list[Model]:
    """Build the network of each file, and count; in the order of their sizes.

    Raises:
        FlowlitError: naming the file, if one is missing, describes no network, or one that cannot be
            built or evaluated.
    """
    stems = [Path(file).stem for file in files]
    models = []
    for file, stem in zip(files, stems, strict=True):
        described = Path(file).suffix in YAML
        sure = trust or trusted([file])
        with only_packages(not sure):
            network = build_network(file, sure) if described else pretrained(file, weights)
        network = network.requires_grad_(False).eval()
        try:
            macs = count_macs(network)
        except FlowlitError as error:
            raise FlowlitError(f"{file}: {error}") from error
        name = stem if described and stems.count(stem) == 1 else file
        models.append(Model(name, file, network, count_parameters(network), macs))
    return sorted(models, key=lambda model: (model.parameters, model.macs.all))


def match(models: Sequence[Model], reports: Reports) -> str:
    """Give each model the records of its network; return a line on how many reports belong to one."""
    matched: set[str] = set()
    for model in models:
        own = belonging(model.network, reports)
        matched.update(own)
        model.records += [record for records in own.values() for record in records]
    return f"{len(matched)} of {len(reports)} records are of these networks"


def kinds_of(models: Sequence[Model]) -> list[Kind]:
    """Return every kind of distance that was recorded, in order."""
    kinds = {kind for model in models for record in model.records for kind in record.distances}
    return sorted(kinds, key=lambda kind: tuple(map(str, kind)))
