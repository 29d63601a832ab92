"""Reference statistics: mean and covariance of the features of real images, with the protocol that they were
taken by.

A file is ``npz`` with ``mu`` (d,) and ``sigma`` (d, d) as float64, as EDM and clean-fid write theirs,
``protocol`` (a JSON text), and ``features`` (N, d) as float32 if they were to be kept. Theirs tell resolution
and resize at most, by their names.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from .._support.batch_invariance import in_blocks
from .._support.files import short_hash, write_atomically
from .._version import __version__
from ..errors import FlowlitError
from ..types import FeatureExtractor, ImageDataset
from .features import features_identity
from .frechet import Moments

FORMAT = "flowlit-reference"
VERSION = 1


LEGACY = "legacy_tensorflow"


_ROWS = 1000


class Reference(NamedTuple):
    """What generated images are compared with."""

    mean: Tensor  # (d,) float64
    cov: Tensor  # (d, d) float64
    kept: int  # how many features the file holds
    protocol: dict[str, Any]  # how they were taken, as far as the file tells
    path: Path

    def features(self) -> Tensor:
        """Read the features that were kept, (N, d) float32."""
        with np.load(self.path, allow_pickle=False) as file:
            return torch.from_numpy(file["features"])

    def sha256(self) -> str:
        """Hash of mean and covariance, wherever they are kept."""
        return hashlib.sha256(self.mean.numpy().tobytes() + self.cov.numpy().tobytes()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"file": str(self.path), "sha256": self.sha256(), **self.protocol}


@torch.no_grad()
def make_reference(
    images: ImageDataset,
    features: FeatureExtractor,
    into: str,
    keep_features: bool = False,
    device: str = "cpu",
    batch_size: int = 256,
) -> Reference:
    """Take the mean and covariance of the features of real images, as they are (no flips), and write them as
    npz.

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
    kept = []
    moments = None
    shape = None
    rest = torch.empty(0)
    bar = tqdm(total=len(images), desc=f"Reference in {features.name} features", unit=" images", leave=False)
    with bar:
        for batch in DataLoader(images, batch_size=batch_size):
            if batch["x1"].dtype != torch.uint8:
                raise FlowlitError(f"reference: images are {batch['x1'].dtype}; expected uint8, 0 … 255")
            shape = list(batch["x1"].shape[1:])
            f = in_blocks(features.extract, batch["x1"].to(device))[0].float().cpu()
            moments = moments or Moments(f.shape[1], alone=True)  # rank 0 makes it while others wait
            *whole, rest = torch.cat([rest.reshape(-1, f.shape[1]), f]).split(
                _ROWS
            )  # sums of the same rows for any batch_size
            for rows in whole:
                moments.update(rows)
            kept += [f] if keep_features else []
            bar.update(len(f))
    if moments is None:
        raise FlowlitError("reference: no images")
    moments.update(rest)
    mean, cov = moments.compute()
    protocol: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "features": features_identity(features, len(mean)),
        "images": images.fingerprint,
        "source": type(images).__name__,
        "count": len(images),
        "shape": shape,
        "range": [0, 255],
        "resize": features.resize,
        "flowlit": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if kept:
        protocol["features_sha256"] = hashlib.sha256(b"".join(f.numpy().tobytes() for f in kept)).hexdigest()
    arrays = {"mu": mean.numpy(), "sigma": cov.numpy(), "protocol": np.array(json.dumps(protocol))}
    arrays |= {"features": torch.cat(kept).numpy()} if kept else {}
    write_atomically(Path(into), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return Reference(mean, cov, len(images) if kept else 0, protocol, Path(into))


def cached_reference(
    images: ImageDataset, features: FeatureExtractor, folder: str, keep_features: bool, device: str
) -> Reference:
    """Make a reference once: it is kept in ``folder`` under a hash of images and features."""
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
            "experiments/reference_….yaml "
            f"--into {path}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, cov = (torch.from_numpy(file[name].astype(np.float64)) for name in ("mu", "sigma"))
            kept = file["features"].shape if "features" in file else (0, mean.numel())
            protocol = (
                json.loads(str(file["protocol"])) if "protocol" in file else foreign_protocol(path.name)
            )
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
    if len(kept) != 2 or kept[1] != d:
        raise FlowlitError(f"{path}: features have shape {kept}; expected (N, {d})")
    if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise FlowlitError(f"{path}: mu or sigma is not finite; make the statistics again")
    return Reference(mean, cov, kept[0], protocol, path)


def foreign_protocol(name: str) -> dict[str, Any]:
    """What the name of another project's file tells: EDM's ``cifar10-32x32``, clean-fid's
    ``cifar10_clean_train_32``.

    >>> foreign_protocol("cifar10_clean_train_32.npz")
    {'features': {'name': 'inception'}, 'resolution': 32, 'resize': 'clean'}
    """
    told: dict[str, Any] = {"features": {"name": "inception"}}
    if match := re.search(r"[-_](\d+)x\1\b", name):
        told["resolution"] = int(match[1])
    if match := re.search(r"_(clean|legacy_tensorflow|legacy_pytorch)_[a-z0-9]+_(\d+|na)\.npz$", name):
        told |= {"resolution": int(match[2])} if match[2].isdigit() else {}
        told["resize"] = match[1]
    return told


def check_reference(reference: Reference, features: FeatureExtractor, shape: Sequence[int]) -> list[str]:
    """Compare how a reference was taken with how images of ``shape`` (C, H, W) are to be looked at now.

    Returns:
        what the reference does not tell, and was not compared.

    Raises:
        FlowlitError: naming every contradiction.
    """
    told = reference.protocol
    wrong = []
    known = told.get("features", {})
    name = features.name
    weights = features.fingerprint()
    if known.get("name", name) != name:
        wrong.append(f"its features are {known['name']}, the run's {name}")
    elif known.get("sha256", weights) != weights:
        wrong.append(f"its {name} features have weights {known['sha256'][:12]}…, the run's {weights[:12]}…")
    if tuple(told.get("shape", shape)) != tuple(shape):
        wrong.append(f"its images are {tuple(told['shape'])}, the run's {tuple(shape)}")
    if told.get("resolution", shape[-1]) != shape[-1]:
        wrong.append(f"its images have {told['resolution']} pixels a side, the run's {shape[-1]}")
    if told.get("range", [0, 255]) != [0, 255]:
        wrong.append(f"its images range over {told['range']}, the run's over [0, 255]")
    resize = told.get("resize", features.resize)
    if resize != features.resize and not (resize == LEGACY and LEGACY in features.resize):
        wrong.append(f"its images were resized by {resize!r}, the run's by {features.resize!r}")
    if wrong:
        raise FlowlitError(
            f"reference {reference.path} contradicts this run: {'; '.join(wrong)}. Make one that fits: "
            "flowlit reference -c experiments/reference_….yaml"
        )
    asked = {"weights": known.get("sha256"), "size": told.get("shape") or told.get("resolution")}
    asked |= {"range": told.get("range"), "resize": told.get("resize")}
    return [what for what, answer in asked.items() if answer is None]


def check_dimension(reference: Reference, dim: int) -> None:
    """Refuse features of another dimension than the reference's.

    Raises:
        FlowlitError: naming both.
    """
    if len(reference.mean) != dim:
        raise FlowlitError(
            f"reference {reference.path} is of {len(reference.mean)} features, but the run has {dim}; make "
            "one that fits"
        )
