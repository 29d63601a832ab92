"""Reference statistics: mean and covariance of the features of real images, and how they were taken.

A file is ``npz`` with ``mu`` (d,) and ``sigma`` (d, d) as float64, as EDM and clean-fid write theirs,
``protocol`` (a JSON text), and ``features`` (N, d) as float32 if they were to be kept. Files of EDM and
clean-fid have resolution and resize at most, in their names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta, Struct
from torch import Tensor
from torch.utils.data import DataLoader

from .._support.arrays import Npz
from .._support.batch_invariance import in_blocks
from .._support.files import short_hash, write_atomically
from .._support.progress import Bar
from .._support.schema import Format, Positive, TrainedOn
from .._version import __version__
from ..data.provenance import described
from ..errors import FlowlitError
from ..types import ImageDataset
from .base import FeatureExtractor, Reference
from .features import features_identity
from .frechet import Moments
from .protocol import foreign_protocol

FORMAT = "flowlit-reference"
VERSION = 1
_ROWS = 1000

DEFINITE = 1e-3
"""A direction's variance may be so far below 0 by rounding, of the largest times the root of their number."""


MOST_FEATURES = 1 << 13
"""Of an extractor, at most: their covariance has 512 MB."""


SYMMETRY = 1e-4
"""Difference of a covariance from its transpose, at most, relative to its largest entry."""


class Extractor(Struct):
    """The extractor of a reference's features."""

    name: str | None = None
    sha256: str | None = None


class Protocol(Struct):
    """Way in which a reference was taken, as far as it is compared; see ``check_reference``."""

    features: Extractor | None = None
    images: str | None = None
    count: Positive | None = None
    shape: Annotated[list[Positive], Meta(min_length=3, max_length=3)] | None = None
    resolution: Positive | None = None
    range: list[float] | None = None
    resize: str | None = None
    classes: list[str] | None = None
    data: TrainedOn | None = None


PROTOCOL = Format(Protocol, "protocol of a reference", "make the reference again", FORMAT, (1, VERSION))


@torch.no_grad()
def make_reference(
    images: ImageDataset,
    features: FeatureExtractor,
    into: str,
    keep_features: bool = False,
    device: str = "cpu",
    batch_size: int = 256,
) -> Reference:
    """Write the mean and covariance of the features of real images, as they are (no flips), as npz.

    Args:
        images: any set of images.
        features: the extractor.
        into: the file to write, ending in .npz; replaced if it is there.
        keep_features: write the features, too (4 d bytes an image), which kernel distance, precision and
            recall need.
        device: where features are extracted, e.g. cuda.
        batch_size: images at a time; the result does not depend on it.

    Raises:
        FlowlitError: if images are missing, broken, or not uint8.
    """
    if not into.endswith(".npz"):
        raise FlowlitError(f"reference: {into} must end in .npz")
    if not len(images):
        raise FlowlitError("reference: no images")
    blocks: list[np.ndarray] = []
    moments = None
    extracted = _extract(images, features, device, batch_size)
    first, shape = next(extracted)
    for rows in _in_rows(chain([first], (batch for batch, _ in extracted))):
        moments = moments or Moments(rows.shape[1], alone=True)  # rank 0 computes while others wait
        moments.update(rows)
        blocks += [rows.numpy()] if keep_features else []
    assert moments is not None
    mean, cov = moments.compute()
    protocol = _protocol(images, shape, features, len(mean))
    arrays = {"mu": mean.numpy(), "sigma": cov.numpy()}
    if keep_features:
        arrays["features"] = np.concatenate(blocks)
        protocol["features_sha256"] = hashlib.sha256(arrays["features"].tobytes()).hexdigest()
    arrays["protocol"] = np.array(json.dumps(protocol))
    write_atomically(Path(into), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return Reference(mean, cov, len(images) if keep_features else 0, protocol, Path(into))


def _extract(
    images: ImageDataset, features: FeatureExtractor, device: str, batch_size: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield the features (B, d) of all images and the shape [C, H, W] of these, under a bar."""
    what = f"Reference in {features.name} features"
    with Bar(total=len(images), desc=what, unit=" images", leave=False) as bar:
        for batch in DataLoader(images, batch_size=batch_size):
            x1 = batch["x1"]
            if x1.dtype != torch.uint8:
                raise FlowlitError(f"reference: images are {x1.dtype}; expected uint8, 0 … 255")
            yield in_blocks(features.extract, x1.to(device))[0].float().cpu(), list(x1.shape[1:])
            bar.update(len(x1))


def _in_rows(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the rows of batches (B, d) a thousand at a time, so that sums do not depend on the batches."""
    remainder = torch.empty(0)
    for batch in batches:
        rows = torch.cat([remainder.reshape(-1, batch.shape[1]), batch])
        *blocks, remainder = rows.split(_ROWS)
        yield from blocks
    yield remainder


def _protocol(images: ImageDataset, shape: list[int], features: FeatureExtractor, dim: int) -> dict[str, Any]:
    facts = images.facts()
    return {
        "format": FORMAT,
        "version": VERSION,
        "features": features_identity(features, dim),
        "images": images.fingerprint,
        "source": type(images).__name__,
        "data": described(images),
        "count": len(images),
        **({"read": facts} if facts else {}),
        "shape": shape,
        "range": [0, 255],
        "resize": features.resize,
        **({"classes": list(images.classes)} if images.classes else {}),
        "flowlit": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cached_reference(
    images: ImageDataset, features: FeatureExtractor, folder: str, keep_features: bool, device: str
) -> Reference:
    """Make a reference once; ``folder`` has it under a hash of images and features."""
    key = short_hash(images.fingerprint, features.fingerprint())
    path = Path(folder) / f"{features.name}-{key}{'-features' if keep_features else ''}.npz"
    if path.exists():
        with suppress(FlowlitError):  # a damaged file of ours is made again
            return read_reference(path)
    return make_reference(images, features, str(path), keep_features, device)


def read_reference(path: str | Path) -> Reference:
    """Read reference statistics: our own, EDM's or clean-fid's. Nothing in the file is executed.

    Raises:
        FlowlitError: if the file is missing, torn, or holds no statistics.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise FlowlitError(
            f"reference statistics {path} do not exist; make them: flowlit reference -c "
            f"experiments/reference_….yaml --into {path}"
        )
    try:
        with Npz(path) as file:
            mean, cov = _statistics(file)
            shape = file.header("features", "f").shape if "features" in file else (0, len(mean))
            protocol = _read_protocol(file) if "protocol" in file else foreign_protocol(path.name)
    except (OSError, ValueError, FlowlitError) as error:
        raise FlowlitError(
            f"{path} holds no reference statistics ({error}); expected npz with mu and sigma"
        ) from error
    if len(shape) != 2 or shape[1] != len(mean):
        raise FlowlitError(f"{path}: features have shape {shape}; expected (N, {len(mean)})")
    return Reference(torch.from_numpy(mean), torch.from_numpy(cov), shape[0], protocol, path)


def _read_protocol(file: Npz) -> dict[str, Any]:
    shape = file.header("protocol", "U").shape
    if shape:
        raise ValueError(f"its protocol has shape {shape}, expected one text")
    return PROTOCOL.parse(str(file.read("protocol", "U")), "its protocol")


def _statistics(file: Npz) -> tuple[np.ndarray, np.ndarray]:
    """Read mean (d,) and covariance (d, d) as float64.

    Raises:
        ValueError: if they are not finite, not symmetric, or of other shapes.
    """
    shapes = {name: file.header(name, "fiu").shape for name in ("mu", "sigma")}
    d = shapes["mu"][0] if shapes["mu"] else 0
    if shapes != {"mu": (d,), "sigma": (d, d)} or not 1 <= d <= MOST_FEATURES:
        raise ValueError(
            f"mu has shape {shapes['mu']} and sigma {shapes['sigma']}; expected (d,) and (d, d), d from 1 to "
            f"{MOST_FEATURES:,}"
        )
    mean, cov = (file.read(name, "fiu").astype(np.float64) for name in ("mu", "sigma"))
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("mu or sigma is not finite; make the statistics again")
    slack = SYMMETRY * np.abs(cov).max()
    if np.abs(cov - cov.T).max() > slack or cov.diagonal().min() < -slack:
        raise ValueError("sigma is not symmetric, or has variances below 0; make the statistics again")
    try:
        np.linalg.cholesky(cov + DEFINITE * math.sqrt(d) * max(np.abs(cov).max(), 1e-30) * np.eye(d))
    except np.linalg.LinAlgError as error:
        raise ValueError("sigma is no covariance: a direction has a variance below 0") from error
    return mean, cov
