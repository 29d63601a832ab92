"""search.json: the settings of a search, and all that was tried, from which it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ..._support.files import write_atomically
from ..._support.schema import Count, Format
from ...errors import FlowlitError
from ...solvers.schedule import Predicts, Shape
from ...solvers.search.base import Record
from ...solvers.search.candidate import Candidate, Choice

STATE = "search.json"

EVERY = 2.0
"""Seconds between two writes, at least: what a killed process loses, and tries again."""


class Schedule(Struct, omit_defaults=True):
    """Lists of a candidate, an entry for each step but for the times, which are one more."""

    times: list[float]
    orders: list[int]
    predictions: list[Predicts]
    forms: list[Shape]
    correctors: list[bool]
    scales: list[float]
    skipped: list[list[str]] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no canonical schedule."""
        if any(len(each) != len(self.times) - 1 for each in self._lists()):
            raise ValueError("a schedule has lists of different lengths")
        try:
            self.candidate().schedule()
        except FlowlitError as error:
            raise ValueError(str(error)) from error
        if self.candidate().lists() != msgspec.to_builtins(self):
            raise ValueError("a schedule has other decisions than this flowlit gives it")

    def candidate(self) -> Candidate:
        """Return the candidate."""
        return Candidate.of(self.times, [Choice(*each) for each in zip(*self._lists(), strict=True)])

    def _lists(self) -> tuple[Sequence[Any], ...]:
        skipped = [tuple(names) for names in self.skipped or [[]] * (len(self.times) - 1)]
        return (self.orders, self.predictions, self.forms, self.correctors, self.scales, skipped)


class Tried(Struct):
    """A candidate that was tried."""

    generation: Count
    score: float | None
    schedule: Schedule


class Search(Struct):
    """The file."""

    format: str
    version: int
    settings: dict[str, Any]
    tried: list[Tried]

    def __post_init__(self) -> None:
        """Refuse generations that do not follow each other."""
        generations = [0, *(each.generation for each in self.tried)]
        if any(not 0 <= later - earlier <= 1 for earlier, later in pairwise(generations)):
            raise ValueError("its generations do not follow each other")


FORMAT = Format(Search, "state of a search", "choose another --into", "flowlit-search", limit=1 << 28)


@dataclass
class State:
    """A search's file: settings and records."""

    path: Path
    settings: dict[str, Any]
    records: list[Record]
    _written: float = field(default=-EVERY)

    @classmethod
    def opened(cls, path: Path, settings: dict[str, Any], budget: int) -> State:
        """Return the state in a file, or an empty one.

        Raises:
            FlowlitError: if the file is of another search: network, noise or options.
        """
        if not path.exists():
            return cls(path, settings, [])
        state = FORMAT.check(FORMAT.read(path), path)
        _compare(path, state.settings, settings)
        if len(state.tried) > budget:
            raise FlowlitError(
                f"{path} has {len(state.tried)} schedules; expected --budget {len(state.tried)} at least, or "
                "another --into"
            )
        records = [Record(each.generation, each.schedule.candidate(), each.score) for each in state.tried]
        return cls(path, settings, records)

    def add(self, record: Record) -> None:
        """Add a record, and write the file now and then."""
        self.records.append(record)
        if time.monotonic() - self._written > EVERY:
            self.write()

    def write(self) -> None:
        """Write the file."""
        tried = [
            {"generation": each.generation, "score": each.score, "schedule": each.candidate.lists()}
            for each in self.records
        ]
        content = {"format": FORMAT.name, "version": 1, "settings": self.settings, "tried": tried}
        write_atomically(self.path, json.dumps(content, indent=1, allow_nan=False).encode())
        self._written = time.monotonic()

    def best_score(self) -> float:
        """Return the best score so far; infinite without one."""
        return min((each.score for each in self.records if each.score is not None), default=float("inf"))

    def check_result(self) -> None:
        """Refuse a search in which no candidate has a score."""
        if self.best_score() == float("inf"):
            raise FlowlitError(
                f"{self.path}: none of {len(self.records)} schedules ends in finite images; the network "
                "makes none"
            )


def _compare(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    plain = json.loads(json.dumps(now))
    other = next((name for name in {**plain, **before} if before.get(name) != plain.get(name)), None)
    if other is None:
        return
    if other == "network":
        raise FlowlitError(
            f"{path} is a search for another network ({str(before.get(other))[:12]}, found "
            f"{now[other][:12]}); choose another --into"
        )
    raise FlowlitError(
        f"{path} was searched with {other} {_short(before.get(other))}, found {_short(plain.get(other))}; "
        "choose another --into, or the same options"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
