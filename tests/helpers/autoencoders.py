"""Autoencoders of latents, small enough for a test: digits, codes of 8 + 2 channels at 2×2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
from commandline import in_process

from flowlit.data import Digits
from flowlit.networks import ConvDecoder, ConvResidual, LatentAutoencoder, SmallClassifier

SHAPE = (10, 2, 2)
ENCODER = {"class_path": "flowlit.networks.SmallClassifier", "init_args": {"dim": 8}}
RESIDUAL = {
    "class_path": "flowlit.networks.ConvResidual",
    "init_args": {"in_channels": 1, "out_channels": 2, "halvings": 2, "width": 8},
}
DECODER = {
    "class_path": "flowlit.networks.ConvDecoder",
    "init_args": {"in_channels": 10, "out_channels": 1, "doublings": 2, "width": 8, "blocks": 1},
}
NETWORK = {
    "class_path": "flowlit.networks.LatentAutoencoder",
    "init_args": {
        "image_shape": [1, 8, 8],
        "encoder": ENCODER,
        "layer": "top",
        "residual": RESIDUAL,
        "decoder": DECODER,
    },
}


def autoencoder(**arguments: Any) -> LatentAutoencoder:
    """One with random weights, whose codes vary as those of a trained encoder do."""
    encoder = SmallClassifier(dim=8)
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # of these digits, as after a training
    encoder.train()(images(200).float() / 127.5 - 1)
    parts: dict[str, Any] = {
        "encoder": encoder,
        "decoder": ConvDecoder(**DECODER["init_args"]),  # type: ignore[arg-type]
        "image_shape": (1, 8, 8),
        "layer": "top",
        "residual": ConvResidual(**RESIDUAL["init_args"]),  # type: ignore[arg-type]
        **arguments,
    }
    return LatentAutoencoder(**parts)


def images(count: int) -> torch.Tensor:
    """Digits, uint8 (count, 1, 8, 8)."""
    digits = Digits(limit=count)
    return torch.stack([digits[row]["x1"] for row in range(count)])


def stage(root: Path, steps: int = 4, **data: Any) -> dict[str, Any]:
    """The configuration of a training of a codec."""
    content = tiny.fit(root, "CodecModule", NETWORK, tiny.digits(limit=24), [tiny.checkpoints(2)], steps)
    del content["model"]["init_args"]["solvers"], content["data"]["init_args"]["noise"]
    content["data"]["init_args"] |= data
    return content


def trained(root: Path, steps: int = 4, *words: str) -> Path:
    """Train one, and return its checkpoint."""
    outcome = in_process("fit", "-c", tiny.write(root / "run.yaml", stage(root, steps)), *words)
    assert outcome.code == 0, outcome.err
    return root / "checkpoints/last.ckpt"


def codec(checkpoint: Path) -> dict[str, Any]:
    """The configuration of the codec of a checkpoint."""
    stored = {
        "class_path": "flowlit.networks.StoredAutoencoder",
        "init_args": {"checkpoint": str(checkpoint)},
    }
    return {"class_path": "flowlit.data.EncoderLatents", "init_args": {"autoencoder": stored}}
