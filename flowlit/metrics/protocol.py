"""Protocol of a reference, compared with that of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .._support.schema import Count
from ..data.provenance import Facts, are_other, in_words
from ..errors import FlowlitError
from .base import FeatureExtractor, Reference

LEGACY = "legacy_tensorflow"


def foreign_protocol(name: str) -> dict[str, Any]:
    """Return the facts in a file's name: EDM's ``cifar10-32x32``, clean-fid's ``cifar10_clean_train_32``.

    >>> foreign_protocol("cifar10_clean_train_32.npz")
    {'features': {'name': 'inception'}, 'resolution': 32, 'resize': 'clean'}
    """
    facts: dict[str, Any] = {"features": {"name": "inception"}}
    edm = re.search(r"[-_](\d+)x\1\b", name)
    if edm:
        facts["resolution"] = int(edm[1])
    clean_fid = re.search(r"_(clean|legacy_tensorflow|legacy_pytorch)_[a-z0-9]+_(\d+|na)\.npz$", name)
    if clean_fid:
        facts |= {"resolution": int(clean_fid[2])} if clean_fid[2].isdigit() else {}
        facts["resize"] = clean_fid[1]
    return facts


def check_reference(reference: Reference, features: FeatureExtractor, shape: Sequence[int]) -> list[str]:
    """Compare how a reference was taken with how images of ``shape`` (C, H, W) are measured now.

    Returns:
        facts that the reference lacks, and that were not compared.

    Raises:
        FlowlitError: naming every contradiction.
    """
    protocol = reference.protocol
    theirs = protocol.get("features", {})
    wrong = _other_features(theirs, features)
    if tuple(protocol.get("shape", shape)) != tuple(shape):
        wrong.append(f"its images are {tuple(protocol['shape'])}, the run's {tuple(shape)}")
    if protocol.get("resolution", shape[-1]) != shape[-1]:
        wrong.append(f"its images have {protocol['resolution']} pixels a side, the run's {shape[-1]}")
    if protocol.get("range", [0, 255]) != [0, 255]:
        wrong.append(f"its images range over {protocol['range']}, the run's over [0, 255]")
    resize = protocol.get("resize", features.resize)
    if resize != features.resize and not (resize == LEGACY and LEGACY in features.resize):
        wrong.append(f"its images were resized by {resize!r}, the run's by {features.resize!r}")
    if wrong:
        raise FlowlitError(
            f"reference {reference.path} contradicts this run: {'; '.join(wrong)}. Make one that fits: "
            "flowlit reference -c experiments/reference_….yaml"
        )
    facts = {
        "weights": theirs.get("sha256"),
        "size": protocol.get("shape") or protocol.get("resolution"),
        "range": protocol.get("range"),
        "resize": protocol.get("resize"),
    }
    return [name for name, fact in facts.items() if fact is None]


def other_images(reference: Reference, trained_on: Facts | None) -> str:
    """Return what is wrong with a reference of other images than a network was trained on; '' if nothing.

    References that do not say, and parts of one set, are taken as they are. Those of before have the class
    of their images alone, of which the network may have another part.
    """
    protocol = reference.protocol
    older = {"name": protocol.get("source"), "images": protocol.get("count")}
    real = protocol.get("data") or {**older, "fingerprint": protocol.get("images")}
    if not trained_on or not real.get("fingerprint") or not are_other(real, trained_on):
        return ""
    if not protocol.get("data") and str(trained_on.get("name")).split(" ")[0] == real["name"]:
        return ""
    return (
        f"reference {reference.path} is of {in_words(real)}, but the network was trained on "
        f"{in_words(trained_on)}: the distance is that to other data"
    )


class Reading(msgspec.Struct):
    """Facts about the files of images, as ``ImageDataset.facts`` has them."""

    formats: dict[str, Count]
    changes: dict[str, Count] = {}
    background: str = "none"

    def words(self) -> dict[str, str]:
        """Return in words what changes features."""
        share = self.formats.get("JPEG", 0) / max(sum(self.formats.values()), 1)
        return {
            "JPEG files": f"{share:.0%}",
            "background": self.background,
            "photos turned upright": "some" if "turned" in self.changes else "none",
        }


def read_otherwise(reference: Reference, facts: Mapping[str, Any]) -> str:
    """Return in what a reference's images were read otherwise than those with these facts.

    JPEG leaves traces that a distance measures, as do a background and photos on their side. Empty if facts
    are missing, or nothing differs.
    """
    try:
        theirs = msgspec.convert(reference.protocol["read"], Reading).words()
        ours = msgspec.convert(facts, Reading).words()
    except (KeyError, msgspec.ValidationError):  # no image files, or a reference of before
        return ""
    different = [name for name in ours if ours[name] != theirs[name]]
    return ", ".join(f"{name} {theirs[name]} there, {ours[name]} here" for name in different)


def _other_features(theirs: dict[str, Any], features: FeatureExtractor) -> list[str]:
    name = features.name
    weights = features.fingerprint()
    if theirs.get("name", name) != name:
        return [f"its features are {theirs['name']}, the run's {name}"]
    if theirs.get("sha256", weights) != weights:
        return [f"its {name} features have weights {theirs['sha256'][:12]}…, the run's {weights[:12]}…"]
    return []


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
