"""Reference statistics: mean and covariance of the features of real images, and how they were taken.

A file is ``npz`` with ``mu`` (d,) and ``sigma`` (d, d) as float64, as EDM and clean-fid write theirs,
``protocol`` (a JSON text), and ``features`` (N, d) as float32 if they were to be kept. Files of EDM and
clean-fid have resolution and resize at most, in their names.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .._support.batch_invariance import in_blocks
from .._support.files import short_hash, write_atomically
from .._version import __version__
from ..errors import FlowlitError
from ..types import ImageDataset
from .base import FeatureExtractor, Reference
from .features import features_identity
from .frechet import Moments
from .protocol import foreign_protocol

FORMAT = "flowlit-reference"
VERSION = 1
_ROWS = 1000


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
    with tqdm(total=len(images), desc=what, unit=" images", leave=False) as bar:
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
    return {
        "format": FORMAT,
        "version": VERSION,
        "features": features_identity(features, dim),
        "images": images.fingerprint,
        "source": type(images).__name__,
        "count": len(images),
        "shape": shape,
        "range": [0, 255],
        "resize": features.resize,
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
    if not path.is_file():
        raise FlowlitError(
            f"reference statistics {path} do not exist; make them: flowlit reference -c "
            f"experiments/reference_….yaml --into {path}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, cov = (torch.from_numpy(file[name].astype(np.float64)) for name in ("mu", "sigma"))
            shape = file["features"].shape if "features" in file else (0, mean.numel())
            own = "protocol" in file
            protocol = json.loads(str(file["protocol"])) if own else foreign_protocol(path.name)
            if not isinstance(protocol, dict):
                raise ValueError("its protocol is no mapping")
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise FlowlitError(
            f"{path} holds no reference statistics ({error}); expected npz with mu and sigma"
        ) from error
    d = mean.numel()
    if mean.shape != (d,) or cov.shape != (d, d):
        raise FlowlitError(
            f"{path}: mu has shape {tuple(mean.shape)} and sigma {tuple(cov.shape)}; expected (d,) and (d, d)"
        )
    if len(shape) != 2 or shape[1] != d:
        raise FlowlitError(f"{path}: features have shape {shape}; expected (N, {d})")
    if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise FlowlitError(f"{path}: mu or sigma is not finite; make the statistics again")
    return Reference(mean, cov, shape[0], protocol, path)
