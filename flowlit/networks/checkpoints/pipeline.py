"""The network of a diffusers pipeline's folder, which is read as plain data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from ..wrappers.diffusers import DiffusersUNet
from ..wrappers.diffusers_transformers import DiffusersSD3, DiffusersZImage
from .contents import Contents
from .layouts.diffusers import KINDS, NULL, DiffusersLayout, is_flow
from .locate import locate
from .read import read_contents
from .safetensors_file import unpack
from .tensors import check_dense

FACTS = "flowlit.json"
"""Of a pipeline that flowlit wrote: what diffusers has no place for."""


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
    """Return whether a path is a pipeline's folder, or that of its network."""
    try:
        return is_pipeline(Path(place)) or is_part(Path(place))
    except (TypeError, OSError, ValueError):
        return False


def read_pipeline(folder: Path) -> tuple[Contents, Path]:
    """Return the network of a pipeline's folder, or of its own folder, and the first file of its weights.

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
        place = folder / _network_part(folder, parts)
        scheduler = read_json(folder / "scheduler" / SCHEDULER)
    config = read_json(place / CONFIG)
    kind = config.get("_class_name", DiffusersUNet.kind)
    if kind not in KINDS:
        raise FlowlitError(f"{place} holds a {kind}; expected a {' or '.join(KINDS)}, or its pipeline")
    if (folder / FACTS).is_file():
        facts |= {name: value for name, value in read_json(folder / FACTS).items() if name == "solver"}
    size = None
    if "vae" in parts:
        size = check_latents(folder, config, place.name)
        facts["codec"] = {"class_path": "flowlit.data.VAE", "init_args": {"folder": str(folder / "vae")}}
    files = weight_files(place)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= unpack(file)[0]
    check_dense(state, place)
    state[NULL], encoder = _null_text(folder, parts, config)
    if encoder is not None:
        facts["text_encoder"] = encoder
    length = len(state[NULL]) - KINDS[kind].pooled_rows(config)
    layout = DiffusersLayout(
        str(folder), config=config, scheduler=scheduler, text_length=length, sample_size=size
    )
    return Contents(layout, {"only": state}, facts), files[0]


def _network_part(folder: Path, parts: Mapping[str, str]) -> str:
    """Return the name of the folder of a pipeline's network."""
    names = ("unet", "transformer", "prior")
    part = next((name for name in names if name in parts), "")
    kind = parts.get(part, "no network")
    if kind not in KINDS:
        raise FlowlitError(
            f"{folder} is a pipeline with {kind}; expected one with a {DiffusersUNet.kind} as unet, as of "
            f"Stable Diffusion 1.x and 2.x, or a {DiffusersSD3.kind} or {DiffusersZImage.kind} as transformer"
        )
    return part


def check_latents(folder: Path, network: Mapping[str, Any], part: str = "unet") -> int | None:
    """Compare the channels of a pipeline's VAE with those of its network.

    Args:
        folder: of the pipeline.
        network: its configuration.
        part: its name in the pipeline.

    Returns:
        Latents a side of the images that the VAE was trained on; None if it does not say.

    Raises:
        FlowlitError: if they differ.
    """
    vae = read_json(folder / "vae" / CONFIG)
    latents = vae.get("latent_channels", 4)
    channels = network.get("in_channels", 4 if part == "unet" else 16)
    if latents != channels:
        raise FlowlitError(
            f"{folder}: latents of its vae have {latents} channels, but its {part} takes {channels}; put the "
            "vae there that it was trained with"
        )
    size = vae.get("sample_size")
    blocks = vae.get("block_out_channels")
    if not isinstance(size, int) or not isinstance(blocks, list) or not blocks:
        return None
    return size >> (len(blocks) - 1)


def _null_text(
    folder: Path, parts: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any] | None]:
    """Return the embedding of the empty text, (L, D), and how to build the encoder, if there is one."""
    kind = KINDS[config.get("_class_name", DiffusersUNet.kind)]
    if "text_encoder" not in parts:
        logging.getLogger("flowlit").warning(
            "%s has no text encoder: the embedding of the empty text is zeros until training sets it", folder
        )
        return kind.blank(config), None
    encoder = resolve(kind.encoder)(str(folder))
    return encoder.null(), {**encoder.spec, "fingerprint": encoder.fingerprint}


def as_velocity(folder: str) -> nn.Module:
    """Take the network of a diffusers pipeline's folder for a velocity; of U-Nets, at the time 1000 (1 - t).

    For InstaFlow's published networks, whose scheduler says otherwise, and for students of reflow that begin
    with the weights of a diffusion: their first thousands of steps give the output a new meaning
    (2309.06380). That of a flow, noise - data, is one but for its sign. ``pretrained`` takes it for what its
    scheduler says.

    Args:
        folder: of the pipeline, or of its network.

    Raises:
        FlowlitError: as ``pretrained``.
    """
    from .load import rebuilt, take

    contents, file = read_pipeline(Path(folder))
    layout = contents.layout
    assert isinstance(layout, DiffusersLayout)
    predicts = "flow" if is_flow(layout.scheduler) else "velocity"
    return take(contents, str(file), network=rebuilt(layout.inside(predicts)))
