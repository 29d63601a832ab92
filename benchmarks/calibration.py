"""What the numbers of a feature extractor mean: distances between real images and such as were changed in a
known way, and how they depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from flowlit._support.files import short_hash, write_figure
from flowlit._support.permutation import shuffled
from flowlit.errors import FlowlitError
from flowlit.metrics import KID, EfficientNetLite0, FrechetExtrapolated
from flowlit.metrics.base import Estimate, FeatureBatch, FeatureExtractor
from flowlit.metrics.frechet import Moments, frechet_distance
from flowlit.types import ImageDataset

from .changes import (
    Change,
    Images,
    blurred,
    features_of,
    few_colours,
    noisy,
    opened,
    read,
    reduced,
    unchanged,
)
from .report import Claim, Result

QUICK = {"count": 64, "sides": (16, 32), "subsets": 5}
OTHERS, HELD_OUT, CLASSES = "other training images", "held-out images", "half of the classes"
BLURRED = "3×3 blur"
TWICE = (OTHERS, BLURRED)
"""Sets that are measured with fewer images, too."""
PLAIN, EXTRAPOLATED, KERNEL = "Fréchet", "extrapolated", "kernel"
COPIES = 10


def run(
    images: Sequence[str] = (),
    held_out: Sequence[str] = (),
    resolution: int = 0,
    size: int = 64,
    count: int = 10_000,
    sides: Sequence[int] = (1000, 2000, 3000, 5000),
    subsets: int = 100,
    into: str = "runs/calibration",
    extractor: FeatureExtractor | None = None,
    seed: int = 0,
) -> Result:
    """Measure sets of ``count`` images against as many others of the training images.

    Features are kept in ``into``, so that a killed run goes on; ``calibration.png`` is written there, too.

    Args:
        images: zips, or one folder, of training images: three times ``count``.
        held_out: such of held-out images.
        resolution: pixels a side to which all images are area-averaged first; 0 leaves them.
        size: of EfficientNetLite0.
        count: images of a set.
        sides: smaller numbers of images, on both sides.
        subsets: of the kernel distance.
        into: folder of features and picture.
        extractor: another one; None is EfficientNetLite0 of ``size``.
        seed: of which images are taken, and of noise.

    Raises:
        FlowlitError: if no images are named, or too few are there.
    """
    extractor = extractor or EfficientNetLite0(size)
    sets = _Sets(images, held_out, resolution, count, extractor, Path(into), seed)
    real = sets.features("real")
    found = {name: sets.features(name) for name in sets.changes}
    found[f"{count // COPIES:,} images, {COPIES} times each"] = _copies(found[OTHERS])
    shape = "×".join(map(str, sets.images["real"].pixels.shape[1:]))
    title = f"{count:,} images of {shape} against {count:,} others of the training set, {extractor.name}"
    bar = tqdm(found.items(), desc="Distances", leave=False)
    rows = [{"images": name, **measured(features, real, subsets)} for name, features in bar]
    growth = [
        {"images": name, "a side": n, **measured(found[name][:n], real[:n], subsets)}
        for name in tqdm(TWICE, desc="Numbers of images", leave=False)
        for n in sides
        if n < count
    ]
    growth += [{"images": row["images"], "a side": count, **row} for row in rows if row["images"] in TWICE]
    growth.sort(key=lambda row: TWICE.index(row["images"]))
    write_figure(Path(into) / "calibration.png", _figure(rows, growth, extractor.name))
    tables = {title: rows, "The same against fewer, on both sides": growth}
    return Result(tables, _claims(rows, growth, real.shape[1]))


class _Sets:
    """Sets of images, and their features on the disk."""

    def __init__(
        self,
        images: Sequence[str],
        held_out: Sequence[str],
        resolution: int,
        count: int,
        extractor: FeatureExtractor,
        into: Path,
        seed: int,
    ):
        if not images or not held_out:
            raise FlowlitError("calibration: no images; name them: --images train.zip --held_out test.zip")
        train, test = opened(images), opened(held_out)
        for part, needed in ((train, 2 * count), (test, count)):
            if len(part) < needed:
                raise FlowlitError(f"calibration: found {len(part):,} images, expected {needed:,}")
        facts = (train.fingerprint, test.fingerprint, extractor.fingerprint(), resolution, count, seed)
        self.folder = into / f"{extractor.name}-{short_hash(*map(str, facts))}"
        self.extractor = extractor
        self.seed = seed
        rows = shuffled(np.arange(len(train)), len(train), seed)
        self.images = {
            "real": read(train, rows[:count], resolution),
            OTHERS: read(train, rows[count : 2 * count], resolution),
            HELD_OUT: read(test, range(count), resolution),
        }
        half = _half_of_classes(train, rows[count:], count, resolution)
        self.images |= {} if half is None else {CLASSES: half}
        self.changes = _changes(self.images["real"].pixels.shape[-1], half is not None)

    def features(self, name: str) -> Tensor:
        """Return the features (N, d) of a set."""
        images = self.images.get(name, self.images[OTHERS])
        change = self.changes.get(name, unchanged)
        path = self.folder / name.replace(" ", "_")
        return features_of(images.pixels, change, self.extractor, path, self.seed)


def _half_of_classes(train: ImageDataset, rows: np.ndarray, count: int, resolution: int) -> Images | None:
    """Return ``count`` images of the first half of the classes; None where there are none, or too few."""
    found = read(train, rows[: 5 * count], resolution)
    classes = int(found.labels.max()) + 1
    chosen = (found.labels < classes // 2).nonzero().flatten()[:count]
    return Images(*(part[chosen] for part in found)) if classes > 1 and len(chosen) == count else None


def _changes(resolution: int, classes: bool) -> dict[str, Change]:
    return {
        HELD_OUT: unchanged,
        OTHERS: unchanged,
        "noise of ±8 levels": noisy,
        "256 colours": few_colours,
        BLURRED: blurred,
        f"resolution {resolution // 2}": reduced(resolution // 2),
        f"resolution {resolution // 4}": reduced(resolution // 4),
        **({CLASSES: unchanged} if classes else {}),
    }


def _copies(features: Tensor) -> Tensor:
    return features[: len(features) // COPIES].repeat(COPIES, 1)


def measured(generated: Tensor, real: Tensor, subsets: int) -> dict[str, float]:
    """Return the three distances of features (N, d) and (M, d), with spreads."""
    sizes = min(1000, len(generated), len(real))
    batch = FeatureBatch(generated)
    extrapolated = FrechetExtrapolated()(batch, real)["fid_extrapolated"]
    kernel = KID(subsets, sizes)(batch, real)["kid"]
    return {
        PLAIN: frechet_distance(*_moments(generated), *_moments(real)),
        **_with_spread(EXTRAPOLATED, extrapolated),
        **_with_spread(KERNEL, kernel),
    }


def _with_spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: float(estimate.value), f"± {name}": float(estimate.spread or 0.0)}


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    moments = Moments(features.shape[1], alone=True)
    for rows in features.split(1000):
        moments.update(rows)
    return moments.compute()


def _claims(rows: list[dict[str, Any]], growth: list[dict[str, Any]], dim: int) -> list[Claim]:
    """Return that numbers of images do not matter once extrapolated, and that every change is found."""
    claims = []
    for name in TWICE:
        enough = [row for row in growth if row["images"] == name and row["a side"] >= 2 * dim]
        if len(enough) < 2:
            continue
        few, many = enough[0], enough[-1]
        off = abs(few[EXTRAPOLATED] - many[EXTRAPOLATED])
        error = float(np.hypot(few[f"± {EXTRAPOLATED}"], many[f"± {EXTRAPOLATED}"]))
        claim = f"{name}: extrapolated from {few['a side']:,} and {many['a side']:,} a side"
        claims.append(Claim(claim, "within 3 spreads", f"{off / max(error, 1e-12):.1f}", off <= 3 * error))
    equal = [row for row in rows if row["images"] in (OTHERS, HELD_OUT)]
    changed = [row for row in rows if row not in equal]
    for measure in (EXTRAPOLATED, KERNEL):
        nearest = min(changed, key=lambda row: row[measure])
        most = max(row[measure] for row in equal)
        found = f"{nearest['images']}: {nearest[measure]:.3g}, unchanged at most {most:.3g}"
        claims.append(Claim(f"{measure}: every change is farther", "yes", found, nearest[measure] > most))
    return claims


def _figure(rows: list[dict[str, Any]], growth: list[dict[str, Any]], features: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [row["images"] for row in rows]
    left.plot([row[PLAIN] for row in rows], names, "o", mfc="none", label="plain")
    spread = [row[f"± {EXTRAPOLATED}"] for row in rows]
    left.errorbar([row[EXTRAPOLATED] for row in rows], names, xerr=spread, fmt="o", label="extrapolated")
    left.invert_yaxis()
    left.set(xlabel=f"Fréchet distance, {features}", title="What was changed")
    for name in dict.fromkeys(row["images"] for row in growth):
        same = [row for row in growth if row["images"] == name]
        numbers = [row["a side"] for row in same]
        (line,) = right.plot(numbers, [row[PLAIN] for row in same], "o--", mfc="none", label=f"{name}, plain")
        values, spread = ([row[key] for row in same] for key in (EXTRAPOLATED, f"± {EXTRAPOLATED}"))
        label = f"{name}, extrapolated"
        right.errorbar(numbers, values, yerr=spread, fmt="o-", color=line.get_color(), label=label)
    right.set(xscale="log", xlabel="images on each side", title="How many images")
    right.set_xticks(numbers, [f"{number:,}" for number in numbers], minor=False)
    right.set_xticks([], minor=True)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
