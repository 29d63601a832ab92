"""Pairs as other projects store them, written without flowlit.

RectifiedFlow and SlimFlow: ``<root>/<seed>/z0.npy`` (noise), ``z1.npy`` (data in [-1, 1]) and perhaps
``label.npy``. EDM: PNG files ``000000/000123.png`` whose noise is ``torch.randn`` of the seed in their name,
zipped.
"""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import torch
from PIL import Image


def smooth(noise):
    """Something like a teacher: a fixed smooth function of noise (rows, C, H, W) to [-1, 1]."""
    return np.tanh(
        (noise + np.roll(noise, 1, -1) + np.roll(noise, 1, -2) + np.roll(noise, (1, 1), (-1, -2))) / 2
    )


def write_folder(
    path, rows=40, shape=(1, 8, 8), seed=0, labels=None, classes=10, dtype="float32", order="C", data=(-1, 1)
):
    """Write one pair folder and return its arrays; labels: "one-hot", "integers" or None; data: black and
    white.
    """
    random = np.random.default_rng(seed)
    z0 = random.standard_normal((rows, *shape))
    arrays = {"z0": z0, "z1": (smooth(z0) + 1) / 2 * (data[1] - data[0]) + data[0]}
    arrays = {name: np.asarray(array, dtype=dtype, order=order) for name, array in arrays.items()}
    if labels:
        number = np.concatenate([random.integers(0, classes, rows - 1), [classes - 1]])
        arrays["label"] = np.eye(classes, dtype=dtype)[number] if labels == "one-hot" else number
    path.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return arrays


def edm_noise(seed, shape):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()


def edm_name(seed):
    return f"{seed - seed % 1000:06d}/{seed:06d}.png"


def write_edm_zip(path, seeds, shape=(3, 8, 8), names=edm_name, labels=None, drawn=None):
    """Write a zip of PNG files and return the noise and the bytes of each image, by seed.

    Args:
        names: from a seed to a name in the zip.
        labels: from a seed to its class, for ``dataset.json``.
        drawn: from a seed to the one that the noise was really drawn from.
    """
    pairs = {}
    with zipfile.ZipFile(path, "w") as archive:
        for seed in seeds:
            noise, file = edm_noise(drawn(seed) if drawn else seed, shape), io.BytesIO()
            image = (smooth(noise) * 127.5 + 128).clip(0, 255).astype(np.uint8)
            pixels = image.transpose(1, 2, 0)
            Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels).save(file, "png")
            archive.writestr(names(seed), file.getvalue())
            pairs[seed] = noise, image
        if labels:
            archive.writestr(
                "dataset.json", json.dumps({"labels": [[names(seed), labels(seed)] for seed in seeds]})
            )
    return pairs
