"""A velocity that looks at an image: the first layer takes its channels beside those of x."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from ...errors import FlowlitError
from ...types import Cond, reads_of, shape_of
from .base import VelocityWrapper


class ConcatenatedImage(VelocityWrapper):
    """A network whose first convolution also takes ``cond["image"]``, of the shape of x: (x, t, cond) ->
    (B, C, R, R).

    The weights of the new channels are 0: at first the velocity is that of the network inside, which may be
    one of ``pretrained``, and does not depend on the image. Use it for super-resolution, whose couplings
    bring the degraded image at the size of x. Inside ``EDM`` or another wrapper, it stands around the network
    alone.

    Args:
        network: whose convolution ``stem`` takes x: ``UNet``, ``ADM`` or ``DiT``.

    Raises:
        FlowlitError: for a network without one.
    """

    def __init__(self, network: nn.Module):
        shape = shape_of(network)
        stem = getattr(network, "stem", None)
        stem = getattr(stem, "proj", stem)  # of patches
        if not isinstance(stem, nn.Conv2d) or shape is None or stem.in_channels != shape[0]:
            raise FlowlitError(
                f"ConcatenatedImage: {type(network).__name__} has no convolution stem of its C channels; "
                "expected flowlit.networks.UNet, ADM or DiT, or a network with shape = (C, H, W) and one"
            )
        super().__init__(network)
        self.channels = shape[0]
        wider = widened(stem, self.channels)
        if network.stem is stem:
            network.stem = wider
        else:
            network.stem.proj = wider  # type: ignore[union-attr]
        network.shape = (2 * shape[0], *shape[1:])  # type: ignore[assignment]

    @property
    def reads(self) -> frozenset[str]:
        """Names of the conditions of the network inside, and "image"."""
        return (reads_of(self.network) or frozenset()) | {"image"}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), given cond["image"] (B, C, R, R).

        Raises:
            FlowlitError: if the image is missing, or of another shape.
        """
        image = cond.get("image")
        if image is None:
            raise FlowlitError(
                'ConcatenatedImage: cond has no "image", the degraded image at the size of x; start from '
                "flowlit.couplings.DegradedImages (data.noise), or enlarge pictures by flowlit upscale"
            )
        if image.shape != x.shape:
            raise FlowlitError(
                f'ConcatenatedImage: cond["image"] has shape {tuple(image.shape)}; expected that of x, '
                f"{tuple(x.shape)}"
            )
        others = {name: value for name, value in cond.items() if name != "image"}
        return self.network(torch.cat([x, image.to(x.dtype)], dim=1), t, others)


def widened(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return a convolution that takes so many more channels, of weight 0: (B, i + channels, H, W) ->
    (B, o, H', W').
    """
    wider = deepcopy(layer)
    weight = layer.weight.detach()
    added = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
    wider.weight = nn.Parameter(torch.cat([weight, added], dim=1), requires_grad=layer.weight.requires_grad)
    wider.in_channels += channels
    return wider
