"""The closing table and picture of a pipeline, from what its evaluation stages wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..._support.files import write_atomically
from ..._support.formatting import aligned, number_or_dash
from ...errors import FlowlitError
from ...metrics.report import REPORT, distance_features

WIDTH = 1000
"""Pixels of a picture, about, to which narrower grids are enlarged."""


def read_rows(
    root: Path, table: list[dict[str, str]], reports: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Collect one row for each entry {model, stage, solver} of a recipe's table.

    Args:
        root, table: of the recipe.
        reports: file of each stage, if it is not its metrics.json.

    Raises:
        FlowlitError: if an evaluation wrote no metrics, or not for that solver.
    """
    files = {entry["stage"]: f"{entry['stage']}/metrics.json" for entry in table} | (reports or {})
    return [_row(root / files[entry["stage"]], entry["model"], entry["solver"]) for entry in table]


def _row(path: Path, model: str, solver: str) -> dict[str, Any]:
    try:
        report = _without_gaps(REPORT.read(path))
        metrics = _without_gaps(report["metrics"])
        features, distance = _distance(metrics, solver)
        titles = report.get("paired", {}).get("metrics", {})
        paired = {title: metrics[f"{name}/{solver}"] for name, title in titles.items()}
        return {
            "model": model,
            "params": report["params"],
            "nfe": round(metrics[f"nfe/{solver}"], 2),
            "frechet": distance,
            "features": features,
            "straightness": metrics.get("straightness/sum"),
            "images_per_s": metrics[f"images_per_s/{solver}"],
            **({"paired": paired} if paired else {}),
        }
    except (FlowlitError, KeyError) as error:
        why = error if isinstance(error, FlowlitError) else repr(error)
        raise FlowlitError(
            f"{path} has no complete metrics for solver {solver!r} ({why}); the evaluation stage needs the "
            "callbacks FID, Throughput and Report"
        ) from error


def _distance(metrics: dict[str, Any], solver: str) -> tuple[str | None, Any]:
    """Return the features and the number of a solver's Fréchet distance; None where it was not measured."""
    for tag, value in metrics.items():
        name, _, whose = tag.rpartition("/")
        features = distance_features(name)
        if features and whose == solver:
            return features, value
    return None, None


def _without_gaps(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as an aligned table, with the features of the Fréchet distance in its header."""
    features = sorted({row["features"] or "no" for row in rows})
    paired = list(dict.fromkeys(title for row in rows for title in row.get("paired", {})))
    header = [
        "model",
        "parameters",
        "NFE",
        f"Fréchet ({', '.join(features)} features)",
        "straightness",
        "images/s",
        *paired,
    ]
    lines = [header] + [
        [
            row["model"],
            f"{row['params']:,}",
            f"{row['nfe']:g}",
            number_or_dash(row["frechet"], ".4g"),
            number_or_dash(row["straightness"], ".2f"),
            f"{row['images_per_s']:,.0f}",
            *(number_or_dash(row.get("paired", {}).get(title), ".4g") for title in paired),
        ]
        for row in rows
    ]
    return "\n".join(aligned(lines))


def draw_samples(root: Path, table: list[dict[str, str]]) -> Image.Image:
    """Put the sample grids of all rows under each other: the same noise through each model."""
    places = ((entry["model"], entry["stage"], entry["solver"]) for entry in table)
    return draw_sheet(
        [(model, root / stage / "samples" / f"{solver}.png") for model, stage, solver in places]
    )


def draw_sheet(grids: Sequence[tuple[str, Path]]) -> Image.Image:
    """Put grids of samples under each other, each with its label.

    Raises:
        FlowlitError: if one cannot be read.
    """
    font = ImageFont.load_default(size=16)
    strips = []
    for label, path in grids:
        try:
            grid = Image.open(path).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise FlowlitError(
                f"samples {path} cannot be read ({error}); the evaluation stage needs the callback Samples"
            ) from error
        zoom = max(1, WIDTH // grid.width)  # grids of earlier versions have small images
        larger = grid.resize((grid.width * zoom, grid.height * zoom), Image.Resampling.NEAREST)
        strips.append((label, larger))
    margin = 8
    height = 24
    width = max(grid.width for _, grid in strips) + 2 * margin
    sheet = Image.new(
        "RGB", (width, sum(grid.height + height + margin for _, grid in strips) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    y = margin
    for label, grid in strips:
        draw.text((margin, y), label, fill="black", font=font)
        sheet.paste(grid, (margin, y + height))
        y += grid.height + height + margin
    return sheet


def summarise(root: Path, table: list[dict[str, str]], reports: dict[str, str]) -> str:
    """Write ``summary.json`` and ``samples.png`` into the root; return the table as text."""
    rows = read_rows(root, table, reports)
    sheet = draw_samples(root, table)
    write_atomically(root / "summary.json", f"{json.dumps(rows, indent=1)}\n".encode())
    write_atomically(root / "samples.png", lambda file: sheet.save(file, "PNG"))
    return (
        f"\n{format_table(rows)}\n\n{root}/summary.json  {root}/samples.png\nTensorBoard: tensorboard "
        f"--logdir {root}"
    )
