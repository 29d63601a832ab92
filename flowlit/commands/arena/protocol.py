"""Facts that must agree for distances to be compared: features, reference, number of images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from ...errors import FlowlitError
from ...metrics.report import distance_features, real_images
from .record import Protocol
from .runs import Run, number


class Measured(NamedTuple):
    """A report of a run."""

    run: Run
    stage: str
    report: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.run.name}, {self.stage}"


def tags(features: str) -> tuple[str, str, str]:
    """Return the tags of distance, its extrapolation and the kernel distance, without the solver.

    >>> tags("digits")
    ('frechet_digits', 'frechet_extrapolated_digits', 'kernel_distance_digits')
    """
    if features == "inception":
        return "fid", "fid_extrapolated", "kid"
    return f"frechet_{features}", f"frechet_extrapolated_{features}", f"kernel_distance_{features}"


def mean_of(group: Sequence[Measured], tag: str) -> float | None:
    """Return the mean of a number over reports; None where one of them lacks it."""
    values = [number(each.report, tag) for each in group]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def features_of(reports: Sequence[Measured], given: str) -> str:
    """Return the features whose distance all reports have; if those are several, the given ones.

    Raises:
        FlowlitError: if there are none, or several and none of them is given.
    """
    own = [spaces(each.report) for each in reports]
    common = set.intersection(*own)
    for each, names in zip(reports, own, strict=True):
        if given and given not in names:
            known = ", ".join(sorted(names)) or "none"
            raise FlowlitError(f"{each.name} has no distance in {given} features; it has {known}")
        if not common and names != own[0]:
            first = ", ".join(sorted(own[0])) or "none"
            second = ", ".join(sorted(names)) or "none"
            raise FlowlitError(
                f"{reports[0].name} and {each.name} were measured in different features: {first}, and "
                f"{second}; measure one of them again"
            )
    if not given and not common:
        raise FlowlitError(f"{reports[0].name} has no Fréchet distance; the stage needs the callback FID")
    if not given and len(common) > 1:
        several = sorted(common)
        raise FlowlitError(f"distances are in {', '.join(several)} features; choose: --features {several[0]}")
    return given or common.pop()


def spaces(report: dict[str, Any]) -> set[str]:
    """Return the features whose Fréchet distance a report has."""
    names = (distance_features(tag.rpartition("/")[0]) for tag in report["metrics"])
    return {name for name in names if name is not None}


def protocol_of(reports: Sequence[Measured], features: str) -> Protocol:
    """Return the protocol of all reports.

    Raises:
        FlowlitError: if two differ, naming both, and in what.
    """
    protocols = [_protocol(each.report, features) for each in reports]
    for each, protocol in zip(reports, protocols, strict=True):
        parts = [
            f"{field.replace('_', ' ')} {_short(getattr(protocols[0], field))} and {_short(value)}"
            for field, value in ((name, getattr(protocol, name)) for name in Protocol.__struct_fields__)
            if value != getattr(protocols[0], field)
        ]
        if parts:
            raise FlowlitError(
                f"{reports[0].name} and {each.name} were measured by different protocols: "
                f"{'; '.join(parts)}; measure one of them again"
            )
    return protocols[0]


def _protocol(report: dict[str, Any], features: str) -> Protocol:
    facts = (report.get("features") or {}).get(features) or {}
    reference = facts.get("reference") or {}
    images = facts.get("images", report.get("images"))
    return Protocol(features, facts.get("sha256"), images, real_images(reference), reference.get("count"))


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]
