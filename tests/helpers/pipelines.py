"""Pipelines of Stable Diffusion's form with a few weights, written once for each kind."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

UNET: dict[str, Any] = {
    "block_out_channels": [16, 32],
    "attention_head_dim": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
}
VAE = {"block_out_channels": [16, 32], "norm_num_groups": 8, "scaling_factor": 0.7}
CONFIG: dict[str, Any] = {
    **UNET,
    "sample_size": 8,
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
TEXT = (77, 32)


@lru_cache
def _all() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="flowlit-pipelines-")


@lru_cache
def pipeline(prediction: str = "epsilon", seed: int = 0) -> Path:
    """Return the folder of a pipeline of 16 × 16 images; not to be changed."""
    from flowlit.generators.pipeline_folder import tiny_pipeline

    folder = Path(_all().name) / f"{prediction}_{seed}"
    tiny_pipeline(folder, 16, prediction, seed, UNET, VAE)
    return folder


def change(path: Path, **entries: Any) -> None:
    """Change entries of a configuration; those that are None are removed."""
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def texts(rows: int, seed: int = 0) -> torch.Tensor:
    """Return random texts (B, L, D)."""
    return torch.randn(rows, *TEXT, generator=torch.Generator().manual_seed(seed))
