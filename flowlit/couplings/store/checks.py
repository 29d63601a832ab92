"""Checks of stores, files and pairs before anything is trained on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FlowlitError
from ..noise import seeded_normals
from .manifest import CLASSES, IDENTITY, OPTIONAL, check_ranges, differences
from .shard import ShardFile, reading
from .text import NUMBER, prompts_fit

PROBE_TOLERANCE = 1e-6


def conditions_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return dtype and shape of what each row of a store is conditioned on, by name, labels included."""
    label = {"label": ("int64", ())} if manifest["labels"] else {}
    return {**label, **manifest.get("conditions", {})}


def path_of(manifest: dict[str, Any]) -> tuple[str, tuple[int, ...]] | None:
    """Return dtype and shape of the states before x1 in a row; None where there are none."""
    times = manifest.get("times")
    return (manifest["x1"], (len(times) - 1, *manifest["shape"])) if times else None


def check_compatible(folders: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
    """Refuse stores that are not parts of one set.

    Raises:
        FlowlitError: if teacher, solver, shape or dtypes differ, or the same noise occurs twice.
    """
    keys = tuple(key for key in (*IDENTITY, *OPTIONAL, CLASSES) if key != "shard_size")
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if different := differences(manifests[0], manifest, keys, ("in the first", "in this one")):
            raise FlowlitError(
                f"{folder} holds other pairs than {folders[0]} ({'; '.join(different)}); they cannot be one "
                "set"
            )
    check_ranges(folders, manifests)


def check_shard(shard: ShardFile, manifest: dict[str, Any], entry: dict[str, Any]) -> None:
    """Refuse a file that differs from its entry in the manifest, or whose seed gives other noise here.

    Raises:
        FlowlitError: if rows, shape or dtype differ, or the noise cannot be drawn again on this machine.
    """
    shape = tuple(manifest["shape"])
    expected = {"x1": (manifest["x1"], shape), "index": ("int64", ()), **conditions_of(manifest)}
    if manifest["x0"] != "seed":
        expected["x0"] = (manifest["x0"], shape)
    if path := path_of(manifest):
        expected["path"] = path
    with reading(shard.path):
        size = os.stat(shard.path).st_size
        if size != entry["bytes"]:
            raise ValueError(f"it has {size} bytes, the manifest says {entry['bytes']}")
        for name, (dtype, size) in expected.items():
            here = shard.fields[name][:2]
            listed = np.dtype(dtype), (entry["rows"], *size)
            if here != listed:
                raise ValueError(f"{name} is {here[0]} {here[1]}, the manifest says {listed[0]} {listed[1]}")
        if shard.read("index").min() < 0:
            raise ValueError("it has indices below 0")
        if manifest["x0"] == "seed":
            again = seeded_normals([entry["seed"]], shard.read("index", 0, 1).tolist(), shape).numpy()
            probe = shard.read("probe")
            if probe.shape != again.shape:
                raise ValueError(f"its probe has shape {probe.shape}, expected {again.shape}")
    if manifest["x0"] == "seed" and not np.allclose(probe, again, rtol=0, atol=PROBE_TOLERANCE):
        raise FlowlitError(
            f"shard {shard.path}: seed {entry['seed']} gives other noise here than where the pairs were made "
            f"(up to {np.abs(probe - again).max():.3g} apart), so its x0 cannot be drawn again. NumPy "
            f"{np.__version__} draws differently; use the version that made them, or make them again with "
            "--x0 float16"
        )


def indices_fit(index: np.ndarray, entry: dict[str, Any]) -> bool:
    """Return whether the indices (rows,) of a shard are unique, and begin and end as in its entry."""
    return len(np.unique(index)) == len(index) and [index.min(), index.max()] == entry["index"]


def labels_fit(label: np.ndarray, index: np.ndarray, manifest: dict[str, Any]) -> bool:
    """Return whether labels (rows,) are classes of the manifest, by its law; likewise indices (rows,)."""
    classes = manifest["labels"]["num_classes"]
    balanced = manifest["labels"]["law"] != "balanced" or bool((label == index % classes).all())
    return bool(label.min() >= 0 and label.max() < classes and balanced)


def check_rows(shard: ShardFile, manifest: dict[str, Any], entry: dict[str, Any]) -> None:
    """Refuse a file whose indices, labels or prompts are not those of the manifest.

    Raises:
        FlowlitError: naming which.
    """
    with reading(shard.path):
        index = shard.read("index")
        if not indices_fit(index, entry):
            raise ValueError(f"its indices are not {entry['index'][0]} … {entry['index'][1]}, each once")
        if manifest["labels"] and not labels_fit(shard.read("label"), index, manifest):
            raise ValueError(f"its labels are not those of the manifest, {manifest['labels']}")
        if NUMBER in shard and not prompts_fit(shard.read(NUMBER), index, manifest):
            raise ValueError("its prompts are not those of its indices")


def check_pairs(x0: Tensor, x1: Tensor, where: str, exact: bool = True, normal: bool = True) -> None:
    """Refuse pairs whose noise is none, whose ends are swapped, or whose data are not finite.

    Args:
        x0: (B, …) rows; x1 likewise.
        where: named in the error.
        exact: x0 was drawn from N(0, I); otherwise a flow computed it from data, and it is so only roughly.
        normal: x0 is N(0, I) at all; sources of other laws are not compared with it.

    Raises:
        FlowlitError: if x0 is far from N(0, 1) in mean or standard deviation, or x1 is not finite.
    """
    x1 = x1.double()
    if normal:
        _check_noise(x0.double(), x1, where, exact)
    if not torch.isfinite(x1).all():
        raise FlowlitError(
            f"{where}: x1 is not finite everywhere. Make the couplings again with a healthy teacher"
        )


def is_normal(manifest: dict[str, Any]) -> bool:
    """Return whether the x0 of a store are N(0, I), at least roughly."""
    return manifest["noise"].get("standard_normal", True)


def _check_noise(x0: Tensor, x1: Tensor, where: str, exact: bool) -> None:
    tolerance = (0.01 if exact else 0.3) + 6 / x0.numel() ** 0.5
    mean = float(x0.mean())
    std = float(x0.std())
    if not (abs(mean) <= tolerance and abs(std - 1) <= tolerance):  # NaN is no noise either
        hint = (
            "the ends seem swapped: x0 is noise, x1 is data. " if float(x1.mean().abs()) < tolerance else ""
        )
        raise FlowlitError(
            f"{where}: x0 has mean {mean:.3f} and standard deviation {std:.3f}, expected 0 and 1 (noise). "
            f"{hint}Make the couplings again with `flowlit couple`"
        )
