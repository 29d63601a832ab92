"""The arena, and other recipes of images, at a size for tests."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from commandline import REPOSITORY
from pictures import encoded, into_zip, noise


def random_features(folder: Path, evaluation: str = "experiments/arena/evaluate.yaml") -> str:
    """Write a layer over an evaluation with features of a random network, which need no package, and pixels
    that are few.
    """
    content = yaml.safe_load((REPOSITORY / evaluation).read_text())
    callbacks = content["trainer"]["callbacks"]
    named = {callback["class_path"].rpartition(".")[2]: callback for callback in reversed(callbacks)}
    for callback in callbacks:
        features = callback.get("init_args", {}).get("features", {})
        if features.get("class_path") == "flowlit.metrics.PixelFeatures":
            features["init_args"] = {"size": 4}
    network = {"class_path": "flowlit.networks.SmallEncoder", "init_args": {"dim": 8}}
    arguments = {"network": network, "layer": "top", "name": "random"}
    fid = named["FID"]["init_args"]
    fid["features"] = {"class_path": "flowlit.metrics.NetworkFeatures", "init_args": arguments}
    fid["measures"] = []
    named["Throughput"]["init_args"] = {"batch_size": 4, "repeats": 1}
    if "PairedMetrics" in named:
        metrics = named["PairedMetrics"]["init_args"]["metrics"]
        metrics[:] = [metric for metric in metrics if not metric["class_path"].endswith("Perceptual")]
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return str(path)


def labelled_images(path: Path) -> None:
    """Write a zip of 64 images of ten classes, 3×32×32, no two the same."""
    pixels = {f"{i:03d}.png": encoded(image) for i, image in enumerate(noise(64, 32, 32, 3))}
    labels = {"labels": [[name, i % 10] for i, name in enumerate(pixels)]}
    into_zip(path, pixels | {"dataset.json": json.dumps(labels).encode()})
