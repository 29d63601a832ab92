"""The network of a diffusers pipeline's folder, which is read as plain data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.diffusers_folder import (
    CONFIG,
    SCHEDULER,
    is_part,
    is_pipeline,
    parts_of,
    read_json,
    weight_files,
)
from ..._support.names import resolve
from ...errors import FlowlitError
from .contents import Contents
from .layouts.diffusers import NULL, DiffusersLayout, is_flow
from .locate import locate
from .read import read_contents
from .safetensors_file import unpack
from .tensors import check_dense

FACTS = "flowlit.json"
"""Of a pipeline that flowlit wrote: what diffusers has no place for."""
UNET = "UNet2DConditionModel"


def opened(checkpoint: Any) -> tuple[Contents, str]:
    """Return the contents of a file of weights, or of a pipeline's folder; and the file with the weights.

    Raises:
        FlowlitError: as ``read_contents`` and ``read_pipeline``.
    """
    if _is_of_diffusers(checkpoint):
        contents, file = read_pipeline(Path(checkpoint))
        return contents, str(file)
    path = str(locate(checkpoint))
    return read_contents(path), path


def _is_of_diffusers(place: Any) -> bool:
    """Return whether a path is a pipeline's folder, or that of its U-Net."""
    try:
        return is_pipeline(Path(place)) or is_part(Path(place))
    except (TypeError, OSError, ValueError):
        return False


def read_pipeline(folder: Path) -> tuple[Contents, Path]:
    """Return the U-Net of a pipeline's folder, or of its own folder, and the first file of its weights.

    Facts are how to build the codec of its latents, and the encoder of its texts.

    Raises:
        FlowlitError: for folders that are none, of other networks, or whose parts do not fit together.
    """
    scheduler: Mapping[str, Any] = {}
    facts: dict[str, Any] = {}
    place = folder
    parts: dict[str, str] = {}
    if is_pipeline(folder):
        parts = parts_of(folder)
        place = folder / "unet"
        _check_kind(folder, parts)
        scheduler = read_json(folder / "scheduler" / SCHEDULER)
    config = read_json(place / CONFIG)
    if config.get("_class_name", UNET) != UNET:
        raise FlowlitError(f"{place} holds a {config['_class_name']}; expected a {UNET}, or its pipeline")
    if (folder / FACTS).is_file():
        facts |= {name: value for name, value in read_json(folder / FACTS).items() if name == "solver"}
    if "vae" in parts:
        check_latents(folder, config)
        facts["codec"] = {"class_path": "flowlit.data.VAE", "init_args": {"folder": str(folder / "vae")}}
    files = weight_files(place)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= unpack(file)[0]
    check_dense(state, place)
    state[NULL], encoder = _null_text(folder, parts, config)
    if encoder is not None:
        facts["text_encoder"] = encoder
    layout = DiffusersLayout(str(folder), config=config, scheduler=scheduler, text_length=len(state[NULL]))
    return Contents(layout, {"only": state}, facts), files[0]


def _check_kind(folder: Path, parts: Mapping[str, str]) -> None:
    kind = parts.get("unet") or parts.get("transformer") or parts.get("prior") or "no network"
    if kind != UNET:
        raise FlowlitError(
            f"{folder} is a pipeline with {kind}; expected one with a {UNET} as unet, as Stable Diffusion "
            "1.x and 2.x have it"
        )


def check_latents(folder: Path, unet: Mapping[str, Any]) -> None:
    """Compare the channels of a pipeline's VAE with those of its U-Net.

    Raises:
        FlowlitError: if they differ.
    """
    latents = read_json(folder / "vae" / CONFIG).get("latent_channels", 4)
    channels = unet.get("in_channels", 4)
    if latents != channels:
        raise FlowlitError(
            f"{folder}: latents of its vae have {latents} channels, but its unet takes {channels}; put the "
            "vae there that it was trained with"
        )


def _null_text(
    folder: Path, parts: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any] | None]:
    """Return the embedding of the empty text, (L, D), and how to build the encoder, if there is one."""
    if "text_encoder" not in parts:
        logging.getLogger("flowlit").warning(
            "%s has no text encoder: the embedding of the empty text is zeros until training sets it", folder
        )
        width = config.get("cross_attention_dim", 1280)
        return torch.zeros(77, width if isinstance(width, int) else 1), None
    encoder = resolve("flowlit.data.CLIPText")(str(folder))
    return encoder.null(), {**encoder.spec, "fingerprint": encoder.fingerprint}


def as_velocity(folder: str) -> nn.Module:
    """Take the U-Net of a diffusers pipeline's folder for a velocity, data - noise at the time 1000 (1 - t).

    For InstaFlow's published networks, whose scheduler says otherwise, and for students of reflow that begin
    with the weights of a diffusion: their first thousands of steps give the output a new meaning
    (2309.06380). That of a flow, noise - data, is one but for its sign. ``pretrained`` takes it for what its
    scheduler says.

    Args:
        folder: of the pipeline, or of its unet.

    Raises:
        FlowlitError: as ``pretrained``.
    """
    from .load import rebuilt, take

    contents, file = read_pipeline(Path(folder))
    layout = contents.layout
    assert isinstance(layout, DiffusersLayout)
    predicts = "flow" if is_flow(layout.scheduler) else "velocity"
    return take(contents, str(file), network=rebuilt(layout.unet(predicts)))
