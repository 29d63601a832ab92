"""Networks for images of another size than they were trained on."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain

from torch import nn

from .._support.wrapped import inside
from ..errors import FlowlitError
from ..types import shape_of
from .unet_base import UNetBase


def at_size(network: nn.Module, height: int, width: int) -> nn.Module:
    """Return a U-Net for images of height × width, which shares the weights of ``network``.

    Its attention stays at the levels where it is, and its norms are over more or fewer pixels: results near
    the size of training are best. Use it to enlarge photographs by tiles larger than those of training.

    Args:
        network: ``UNet``, ``ADM``, or a wrapper around one; it is left as it is.
        height: in pixels, a multiple of the network's stride: 2 for each level after the first.
        width: likewise.

    Raises:
        FlowlitError: for sizes that the levels do not divide, and networks that are made for one size.
    """
    *_, last = inside(network)
    if not isinstance(last, UNetBase):
        raise FlowlitError(
            f"{type(last).__name__} is for images of shape {shape_of(last)} alone; only "
            "flowlit.networks.UNet and ADM take other sizes"
        )
    stride = last.stride
    if height < 1 or width < 1 or height % stride or width % stride:
        raise FlowlitError(f"{type(last).__name__}: {height}×{width} pixels; expected multiples of {stride}")
    tensors = chain(network.parameters(), network.buffers())
    resized = deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for part in inside(resized):
        shape = shape_of(part)
        if shape is not None:
            part.shape = (shape[0], height, width)
    return resized
