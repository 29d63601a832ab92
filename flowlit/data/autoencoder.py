"""Autoencoders of diffusers, from their folders."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._support.diffusers_folder import CONFIG, is_pipeline, read_json, weight_files
from .._support.extras import needed
from .._support.files import file_hash
from ..errors import FlowlitError
from ..ranges.kinds import as_finite
from .folder_part import read_part

KINDS = ("AutoencoderKL", "AutoencoderTiny")


class Autoencoder:
    """An autoencoder with frozen weights, which are read when they are first used.

    Args:
        folder: of it, or of the pipeline that it is a part of.
        precision: "float32" or "bf16".
        tiling: compute large images in overlapping tiles.
    """

    def __init__(self, folder: Path, precision: str = "float32", tiling: bool = False):
        self.folder = folder / "vae" if is_pipeline(folder) else folder
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.tiling = tiling

    @cached_property
    def config(self) -> dict[str, Any]:
        """Configuration.

        Raises:
            FlowlitError: if the folder holds none, or its latents have no size.
        """
        config = read_json(self.folder / CONFIG)
        if config.get("_class_name") not in KINDS:
            raise FlowlitError(
                f"VAE: {self.folder} holds a {config.get('_class_name')}; expected {' or '.join(KINDS)}"
            )
        for name, lowest in (("scaling_factor", 0), ("shift_factor", -math.inf)):
            factor = config.get(name)
            number = as_finite(factor)
            if factor is not None and (number is None or number <= lowest):
                raise FlowlitError(
                    f"VAE: {self.folder / CONFIG} has {name}: {factor!r:.40}; expected a number"
                    f"{' above 0' if lowest == 0 else ''}, as its pipeline was trained with; fetch it again"
                )
        return config

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights and the configuration."""
        parts = [file_hash(file) for file in weight_files(self.folder)]
        plain = {name: value for name, value in self.config.items() if not name.startswith("_")}
        return hashlib.sha256(json.dumps([*parts, plain], sort_keys=True).encode()).hexdigest()

    @cached_property
    def model(self) -> Any:
        """The network itself, as diffusers has it."""
        file = weight_files(self.folder)[0]
        kind = getattr(needed("diffusers"), self.config["_class_name"])
        variant = "fp16" if ".fp16." in file.name else None
        given = {"variant": variant, "use_safetensors": True, "torch_dtype": torch.float32}
        options = {**given, "low_cpu_mem_usage": False}
        model = read_part(kind, self.folder, options, "VAE", "diffusers")
        if self.tiling:
            model.enable_tiling()
        if self.dtype != torch.float32:  # diffusers warns of every conversion
            model = model.to(self.dtype)
        return model.requires_grad_(False).eval()

    @property
    def channels(self) -> int:
        """Channels of latents."""
        return self.config.get("latent_channels", 4)

    @property
    def factor(self) -> int:
        """Pixels a side of one latent: each block but one halves."""
        widths = self.config.get("block_out_channels") or self.config.get("encoder_block_out_channels")
        return 2 ** (len(widths or (0,) * 4) - 1)

    @property
    def scale(self) -> float:
        """Factor that brings latents to about unit size."""
        default = 0.18215 if self.config["_class_name"] == "AutoencoderKL" else 1.0
        return float(self.config.get("scaling_factor") or default)

    @property
    def shift(self) -> float:
        """Mean of latents that is subtracted before."""
        return float(self.config.get("shift_factor") or 0.0)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return mean and standard deviation of latents, (B, c, h, w) float32, of images (B, C, H, W).

        The second is None for an autoencoder without a distribution.
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            encoded = self._on(images.device).encode(images.to(self.dtype))
        normal = getattr(encoded, "latent_dist", None)
        if normal is None:
            return encoded.latents.float(), None
        return normal.mode().float(), normal.std.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, C, H, W) float32 of latents (B, c, h, w), with gradients of these."""
        with torch.autocast(latents.device.type, enabled=False):
            return self._on(latents.device).decode(latents.to(self.dtype), return_dict=False)[0].float()

    def _on(self, device: torch.device) -> Any:
        return self.model if self.model.device == device else self.model.to(device)

    def __deepcopy__(self, memo: dict) -> Autoencoder:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "model"}
