"""``flowlit average``: averages of any width, made after training from snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..errors import FlowlitError
from ..ranges import PositiveFloat, PositiveInt
from .convert import check_target

if TYPE_CHECKING:
    from torch import Tensor

    from ..networks.checkpoints.contents import Contents
    from ..schedules.averages import Combination, Tracked


FAR = 0.05
"""Relative residual above which a combination is worth a warning."""


POWER_LAW = "flowlit.schedules.averages.PowerLaw"
MANY = 20
"""Snapshots from which reading them shows a bar."""


class Snapshot(NamedTuple):
    """The description of a snapshot, without its weights."""

    file: Path
    tracked: Tracked
    facts: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def average(
    snapshots: list[Path], *, std: PositiveFloat, into: Path, at: PositiveInt | None = None
) -> list[str]:
    """Combine snapshots of power-law averages (callback EMA, snapshots) to the average of another width.

    The average is written, and read back.

    Args:
        snapshots: files, or the folder that has them: <run>/snapshots
        std: relative width of the average, e.g. 0.08
        into: the file to write, .safetensors
        at: its optimizer step; that of the last snapshot by default

    Raises:
        FlowlitError: if snapshots are missing, torn or of different networks, width or step cannot be had, or
            ``into`` exists or is being made.
    """
    from .._support.locks import locked_target
    from ..schedules.averages import exponent

    exponent(std)
    check_target(into, "safetensors")
    with locked_target(into):
        return _average(snapshots, std, into, at)


def _average(snapshots: list[Path], std: float, into: Path, at: int | None) -> list[str]:
    from ..schedules.averages import Tracked, combine

    given = [_described(file) for file in _progress(_files(snapshots), "Looking")]
    _check_alike(given)
    last = max(given, key=lambda snapshot: snapshot.tracked.step)
    target = Tracked(last.tracked.step if at is None else at, std)
    if not 1 <= target.step <= last.tracked.step:
        raise FlowlitError(
            f"--at {target.step}: expected 1 to {last.tracked.step}, the step of the last snapshot, "
            f"{last.file}"
        )
    combination = combine([snapshot.tracked for snapshot in given], target)
    _write(given, combination, target, last, into)
    size = f"{into}: {into.stat().st_size / 1e6:.1f} MB"
    return [*_table(given, combination), "", *_summary(combination, target), size]


def _files(given: Sequence[Path]) -> list[Path]:
    """Return the files given, and the snapshots in the folders given."""
    files = [
        file for path in given for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])
    ]
    if not files:
        raise FlowlitError(
            f"no snapshots in {', '.join(map(str, given))}; a run writes them with callback EMA, "
            "profile: {class_path: flowlit.schedules.averages.PowerLaw} and snapshots: <optimizer steps>"
        )
    return list(dict.fromkeys(files))


def _progress(files: Sequence[Any], what: str) -> Any:
    from .._support.progress import Bar

    return Bar(files, desc=what, unit=" files", leave=False, disable=len(files) < MANY)


def _described(file: Path) -> Snapshot:
    """Return the description of a file's weights.

    Raises:
        FlowlitError: if it is missing, torn, or no snapshot of a power-law average.
    """
    from .._support.names import current
    from ..schedules.averages import Tracked, exponent

    contents = _read(file)
    average = contents.average(contents.facts.get("weights", ""))
    std = average.get("std")
    updates = average.get("updates")
    if (
        current(str(average.get("profile"))) != POWER_LAW
        or not isinstance(std, float)
        or not isinstance(updates, int)
    ):
        raise FlowlitError(
            f"{file} is no snapshot of a power-law average; expected files of a run's folder snapshots/"
        )
    if "combined" in average:
        raise FlowlitError(f"{file} is a combination already; combine the snapshots that it was made of")
    exponent(std)
    shapes = {name: tuple(value.shape) for name, value in next(iter(contents.states.values())).items()}
    return Snapshot(file, Tracked(updates, std), contents.facts, shapes)


def _read(file: Path) -> Contents:
    from ..networks.checkpoints.read import read_contents

    return read_contents(file)


def _state(file: Path) -> dict[str, Tensor]:
    """Return the one set of weights of a file."""
    return next(iter(_read(file).states.values()))


def _check_alike(given: Sequence[Snapshot]) -> None:
    first = given[0]
    seen = dict[Any, Path]()
    for snapshot in given:
        if snapshot.shapes != first.shapes or snapshot.facts.get("network") != first.facts.get("network"):
            raise FlowlitError(
                f"{snapshot.file} is of another network than {first.file}; give snapshots of one run"
            )
        other = seen.setdefault(snapshot.tracked, snapshot.file)
        if other != snapshot.file:
            raise FlowlitError(
                f"{snapshot.file} and {other} are both of step {snapshot.tracked.step} and width "
                f"{snapshot.tracked.std:g}; "
                "give snapshots of one run, each once"
            )


def _write(
    given: Sequence[Snapshot], combination: Combination, target: Tracked, last: Snapshot, into: Path
) -> None:
    """Write the combination as ``flowlit convert`` writes weights, and compare what is read back."""
    import torch

    from ..networks.checkpoints.write import write_state

    state = _combined(given, combination, last)
    profile = {"profile": POWER_LAW, "std": target.std, "updates": target.step}
    origin = {"snapshots": len(given), "residual": combination.residual}
    facts = {
        key: value
        for key, value in last.facts.items()
        if key in ("solver", "codec", "text_encoder", "class_names", "data")
    }
    facts |= {
        "weights": "ema",
        "ema": {**profile, "combined": origin},
        "ema_updates": target.step,
        "step": target.step,
    }
    write_state(state, last.facts.get("network"), into, {**facts, "version": __version__})
    again = _state(into)
    if again.keys() != state.keys() or any(not torch.equal(again[name], state[name]) for name in state):
        into.unlink(missing_ok=True)
        raise FlowlitError(
            f"{into} would read back as another network, and was not kept; report this, please"
        )


def _combined(given: Sequence[Snapshot], combination: Combination, last: Snapshot) -> dict[str, Tensor]:
    """Return Σ coefficient · snapshot, summed in float64, for each tensor of a state, of any shape.

    What is not a floating-point number, or has infinities as masks do, is the last snapshot's.
    """
    import torch

    latest = _state(last.file)
    total = {
        name: torch.zeros_like(value, dtype=torch.float64)
        for name, value in latest.items()
        if value.is_floating_point() and not value.isinf().any()
    }
    parts = list(zip(given, combination.coefficients, strict=True))
    for snapshot, coefficient in _progress(parts, "Combining"):
        state = _state(snapshot.file)
        for name, value in total.items():
            value.add_(state[name].double(), alpha=coefficient)
    non_finite = [name for name, value in total.items() if not value.isfinite().all()]
    if non_finite:
        raise FlowlitError(
            f"{non_finite[0]} is not finite in one of the snapshots (and {len(non_finite) - 1} more); leave "
            "that one out"
        )
    return {name: total[name].to(value.dtype) if name in total else value for name, value in latest.items()}


def _table(given: Sequence[Snapshot], combination: Combination) -> list[str]:
    from .._support.formatting import aligned

    rows = [
        [snapshot.file.name, str(snapshot.tracked.step), f"{snapshot.tracked.std:g}", f"{coefficient:.4f}"]
        for snapshot, coefficient in zip(given, combination.coefficients, strict=True)
    ]
    return aligned([["snapshot", "step", "std", "coefficient"], *rows])


def _summary(combination: Combination, target: Tracked) -> list[str]:
    wanted = f"std {target.std:g} at step {target.step}: relative residual {combination.residual:.2g}"
    if combination.residual <= FAR:
        return [wanted]
    return [
        wanted,
        "warning: these snapshots cannot make this average well; choose a std or step nearer to theirs, or "
        "keep more",
    ]
