"""Rows of several methods that measured the same networks, as those that share a stage do."""

from __future__ import annotations

from .protocol import Measured

Groups = dict[tuple[str, str, str], list[Measured]]
"""Reports of the seeds, by method, stage and solver."""


def drop_copies(groups: Groups) -> list[str]:
    """Leave out rows whose networks are all in another method's row; return a line for each such stage.

    A network is known by the hash of its weights; reports without one are kept.
    """
    weights = {key: {each.report.get("sha256") for each in group} for key, group in groups.items()}
    dropped: dict[tuple[str, str], list[str]] = {}
    for key, own in weights.items():
        holders = [other for other in weights if _has(other, weights[other], key, own)]
        if holders:
            of = min(holders, key=lambda other: (-len(weights[other]), other))
            del groups[key]
            methods = dropped.setdefault((of[0], of[1]), [])
            methods += [] if key[0] in methods else [key[0]]
    return [
        f"shown once: {stage} of {', '.join(methods)} measured networks of {method}"
        for (method, stage), methods in dropped.items()
    ]


def _has(
    other: tuple[str, str, str], others: set[str | None], key: tuple[str, str, str], own: set[str | None]
) -> bool:
    """Return whether another method's row has all networks of a row; of two with the same, the first."""
    alike = other[2] == key[2] and other[0] != key[0] and None not in own
    return alike and own <= others and (own != others or other[0] < key[0])
