"""Statistics of a network for DPM-Solver-v3, in a file that belongs to that network and guidance alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._support.files import write_atomically
from ..errors import FlowlitError
from ..solvers.model_statistics import Coefficients, ModelStatistics
from ..types import VelocityField
from .checkpoints.fingerprint import fingerprint
from .checkpoints.safetensors_file import pack, unpack
from .wrappers.guidance import ClassifierFreeGuidance

KIND = "statistics"


def owner(velocity: VelocityField) -> tuple[str, float | None]:
    """Return the hash of the weights of a velocity's network, and the scale of its guidance, None without.

    Raises:
        FlowlitError: if it is no network, and so has nothing to compare statistics with.
    """
    inside: Any = velocity
    while not isinstance(inside, nn.Module):
        inside = getattr(inside, "velocity", None) or getattr(inside, "network", None)
        if inside is None:
            raise FlowlitError(
                f"statistics: {type(velocity).__name__} is no network; expected the one they were made of"
            )
    inside = getattr(inside, "_orig_mod", inside)
    if isinstance(inside, ClassifierFreeGuidance):
        return fingerprint(inside.network), float(inside.scale)
    return fingerprint(inside), None


@dataclass
class StoredStatistics(ModelStatistics):
    """Statistics for ``flowlit.solvers.DPMSolverV3`` in a file of ``flowlit statistics``.

    They are of one network and one guidance; others are refused when they are first used.

    Args:
        path: .safetensors.
    """

    path: str
    _contents: tuple[Coefficients, Mapping[str, Any]] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    @property
    def spec(self) -> dict[str, Any]:
        """Class and path, of which it is built."""
        return {"class_path": "flowlit.networks.StoredStatistics", "init_args": {"path": self.path}}

    def coefficients(self, velocity: VelocityField) -> Coefficients:
        if self._contents is None:
            self._contents = read(Path(self.path))
        coefficients, facts = self._contents
        self._compare(owner(velocity), facts)
        return coefficients

    def _compare(self, found: tuple[str, float | None], facts: Mapping[str, Any]) -> None:
        if found[0] != facts["network"]:
            raise FlowlitError(
                f"{self.path} has statistics of another network ({facts['network'][:12]}, found "
                f"{found[0][:12]}); make them with flowlit statistics <its run> --into another.safetensors"
            )
        if found[1] != facts["guidance"]:
            raise FlowlitError(
                f"{self.path} has statistics under guidance {facts['guidance']}, found {found[1]}; make them "
                f"with flowlit statistics <its run> --guidance {found[1]} --into another.safetensors"
            )


def write(path: Path, coefficients: Coefficients, facts: Mapping[str, Any]) -> None:
    """Write coefficients with the facts of their making: network, guidance, n, K, seed and the like."""
    state = {name: value.float().cpu() for name, value in _tensors(coefficients).items()}
    described = {**facts, "kind": KIND, "margin": coefficients.margin}
    write_atomically(path, pack(state, {"statistics": described}))


def read(path: Path) -> tuple[Coefficients, Mapping[str, Any]]:
    """Return the coefficients of a file, (nodes, C, H, W) float64, and the facts of their making.

    Raises:
        FlowlitError: if it is missing, torn, or another kind of file.
    """
    if not path.is_file():
        raise FlowlitError(f"statistics {path} do not exist; make them with flowlit statistics")
    state, written = unpack(path)
    facts = (written or {}).get("statistics")
    if not isinstance(facts, dict) or facts.get("kind") != KIND or set(state) != {"l", "s", "b"}:
        raise FlowlitError(f"{path} has no statistics; expected a file that flowlit statistics has written")
    level, s, b = (state[name].double() for name in ("l", "s", "b"))
    coefficients = Coefficients(level, s, b, float(facts["margin"]))
    if not all(torch.isfinite(value).all() for value in coefficients[:3]):
        raise FlowlitError(f"{path} has statistics that are not finite; make them again")
    return coefficients, facts


def _tensors(coefficients: Coefficients) -> dict[str, Any]:
    return {"l": coefficients.l, "s": coefficients.s, "b": coefficients.b}
