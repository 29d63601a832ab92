"""The facts in a file of weights that flowlit wrote: the entry ``flowlit`` of a checkpoint, or of the
metadata of safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..._support.schema import Count, Format, TrainedOn
from ..._version import __version__
from ...errors import FlowlitError

Version = Annotated[str, Meta(pattern=r"^\d+(\.\d+)*((a|b|rc|\.?post|\.?dev)\d+)*(\+[a-z0-9.]+)?$")]
"""Version of a package."""


class Described(Struct):
    """An object by how it is built, see ``spec``."""

    class_path: str | None = None
    init_args: dict[str, Any] | None = None


class Average(Struct):
    """Way in which an average was taken; further fields are the arguments of its ``EMAProfile``."""

    updates: Count = 0
    profile: str | None = None


class Facts(Struct):
    """Description of network, solver, codec and averages; all may be missing."""

    version: Version | None = None
    network: Described | None = None
    solver: Described | None = None
    codec: Described | None = None
    text_encoder: Described | None = None
    class_names: list[str] | None = None
    data: TrainedOn | None = None
    shape: list[Annotated[int, Meta(ge=1)]] | None = None
    """(c, h, w) of the noise, and below the number of classes, for networks that have no such attribute."""
    num_classes: Count | None = None
    ema_updates: Count | None = None
    ema: Average | None = None
    averages: dict[str, Average] | None = None
    weights: str | None = None
    """Name of the one set of weights that safetensors hold."""
    step: Count = 0
    source: dict[str, Any] | None = None
    sha256: Annotated[dict[str, str], Meta(min_length=1)] = {}
    """Hash of each part of a checkpoint: network, ema, averages.<name>, optimizers; of safetensors: file.
    Files of earlier versions have none, and an empty mapping would compare nothing.
    """
    shared: dict[str, str] | None = None
    """Second names of tensors in safetensors, and the first."""


FACTS = Format(Facts, "description of a network", "use an older checkpoint, or convert or fetch it again")


def check_facts(facts: Mapping[str, Any], file: str | Path) -> None:
    """Refuse facts that are unsound, or that a later flowlit wrote whose files may mean something else.

    Raises:
        FlowlitError: naming the field, or the version.
    """
    version = FACTS.check(facts, f"checkpoint {file}").version or "0"
    if _generation(version) > _generation(__version__):
        raise FlowlitError(
            f"checkpoint {file} was written by flowlit {version}, and this is {__version__}; install a newer "
            "flowlit"
        )


def _generation(version: str) -> int:
    return int(version.partition(".")[0])
