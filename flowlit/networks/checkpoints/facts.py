"""The facts in a file of weights that flowlit wrote: the entry ``flowlit`` of a checkpoint, or of the
metadata of safetensors.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..._support.schema import Count, Format


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

    version: str | None = None
    network: Described | None = None
    solver: Described | None = None
    codec: Described | None = None
    class_names: list[str] | None = None
    ema_updates: Count | None = None
    ema: Average | None = None
    averages: dict[str, Average] | None = None
    weights: str | None = None
    """Name of the one set of weights that safetensors hold."""
    step: Count = 0
    source: dict[str, Any] | None = None
    sha256: dict[str, str] | None = None
    """Hash of each part of a checkpoint: network, ema, averages.<name>, optimizers; of safetensors: file."""
    shared: dict[str, str] | None = None
    """Second names of tensors in safetensors, and the first."""


FACTS = Format(Facts, "description of a network", "use an older checkpoint, or convert or fetch it again")
