"""Numbers of a validation or test run, in a table and in one file with everything that they depend on."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from ..._support.batch_invariance import BLOCK
from ..._support.files import write_atomically
from ..._support.formatting import aligned
from ..._support.machine import hardware, versions
from ...data.classes import class_names_of
from ...data.provenance import trained_on
from ...errors import FlowlitError
from ...metrics.cost import count_parameters
from ...metrics.report import FILES, FORMAT, VERSION
from ...networks.checkpoints.fingerprint import fingerprint
from ...ranges import Checked
from .base import command_of, numbers, protocols


class Report(Checked, Callback):
    """Print a table and write ``metrics.json`` (``test``: ``metrics_test.json``) into the run's folder.

    It holds every logged number with its spread, and the protocol: see docs/protocol.md.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._generation: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._start = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Record the weights while the files that were read still hold what was read."""
        if trainer.state.fn != "fit" and trainer.is_global_zero:
            known = hasattr(pl_module, "generation")
            self._generation = (
                generation(trainer, pl_module) if known else {"sha256": fingerprint(pl_module.network)}
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir  # on every rank, since Lightning broadcasts it
        if trainer.state.fn == "fit" or not trainer.is_global_zero:
            return
        report = self._report(trainer, pl_module)
        written = ""
        if folder is not None and trainer.loggers:
            path = Path(folder) / FILES[report["command"]]
            write_atomically(path, json.dumps(plain(report), indent=1, default=str, allow_nan=False).encode())
            written = f"\n{path}\n"
        print(f"\n{table(report)}\n{written}", end="", flush=True)  # what is written cannot be lost by it
        bad = [name for name, value in report["metrics"].items() if not math.isfinite(value)]
        if bad:
            raise FlowlitError(f"{', '.join(bad)} could not be computed: not finite")

    on_test_start = on_validation_start
    on_test_end = on_validation_end

    def _report(self, trainer: pl.Trainer, module: Any) -> dict[str, Any]:
        report: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "command": command_of(trainer),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._start, 1),
            "metrics": numbers(trainer),
            "params": count_parameters(module.network),
            "precision": str(trainer.precision),
            "hardware": hardware(trainer.world_size, module.device),
            "versions": versions(),
            "network": dict(module.hparams).get("network"),
            **self._generation,
        }
        return {**report, **protocols(trainer), "metrics": report["metrics"]}


def generation(trainer: pl.Trainer, module: Any) -> dict[str, Any]:
    """Return how images were made: noise, checkpoint and its weights, solvers, codec and its rounding."""
    data = getattr(trainer, "datamodule", None)
    loaded = module.loaded_from(trainer.ckpt_path)
    noise = data.evaluated(str(trainer.state.fn.value)) if getattr(data, "noise", None) is not None else None  # type: ignore
    facts = module.generation()
    weights = module.averages.generating()
    names = class_names_of(module.network)
    images = trained_on(module.network)
    return {
        "sha256": facts["network"]["weights"],
        "built": {key: value for key, value in facts["network"].items() if key != "weights"},
        "checkpoint": loaded,
        "weights": (loaded or {}).get("weights", weights),
        "ema": (loaded or {}).get("ema", module.averages.describe(weights)) or None,
        "solvers": facts["solvers"],
        "codec": facts["codec"],
        **({} if names is None else {"classes": list(names)}),
        **({} if images is None else {"data": images}),
        "rounding": facts["rounding"],
        "noise": None if noise is None else noise.identity(),
        "images": None if noise is None else len(noise),
        "rows_of_a_block": BLOCK,
    }


def plain(value: Any) -> Any:
    """Replace numbers that JSON lacks (NaN, infinity) by null."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(report: dict[str, Any]) -> str:
    """Set numbers of solvers as a table, solvers across or down, whatever is narrower; then all others."""
    metrics = report["metrics"]
    spread = report.get("spread", {})
    solvers = list(report.get("solvers", {}))
    names = sorted(
        {tag.rpartition("/")[0] for tag in metrics if tag.rpartition("/")[2] in solvers}, key=place
    )

    def cell(tag: str) -> str:
        if tag not in metrics:
            return "–"
        return f"{metrics[tag]:.5g}" + (f" ± {spread[tag]:.2g}" if tag in spread else "")

    rows = [["", *solvers], *([name, *(cell(f"{name}/{solver}") for solver in solvers)] for name in names)]
    turned = [list(column) for column in zip(*rows, strict=True)]
    text = min(aligned(rows), aligned(turned), key=lambda lines: len(lines[0])) if names else []
    others = [tag for tag in metrics if tag.rpartition("/")[2] not in solvers]
    width = max(map(len, others), default=0)
    text += [""] * bool(text and others) + [f"{tag.ljust(width)}  {cell(tag)}" for tag in others]
    return "\n".join([_caption(report), "", *text])


def _caption(report: dict[str, Any]) -> str:
    facts = [
        f"{report['command']}: {report['images']:,} images" if report.get("images") else report["command"]
    ]
    for name, features in report.get("features", {}).items():
        count = features["reference"].get("count")
        facts.append(
            f"{name} features ({features['sha256'][:8]}) against "
            f"{f'{count:,}' if count else 'an unknown number of'} real ones"
        )
    if report.get("checkpoint"):
        facts.append(str(report["checkpoint"]["file"]))
    if "seed" in (report.get("noise") or {}):
        facts.append(f"seed {report['noise']['seed']}")
    facts += [f"{report['weights']} weights"] if report.get("weights") else []
    return ", ".join([*facts, f"precision {report['precision']}", f"{report['seconds']:.0f} s"])


def place(name: str) -> tuple[bool, bool, bool, str]:
    """Return a key that sorts distances first, their halves beside them, and costs last."""
    return (
        name.startswith(("nfe", "image")),
        not name.startswith(("fid", "frechet")),
        name.endswith("_half"),
        name,
    )
