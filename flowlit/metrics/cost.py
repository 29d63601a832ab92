"""What a network costs: parameters, multiplications, seconds, and images per second; and what a device can
do.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..errors import FlowlitError
from ..frozen import Frozen
from ..types import Cond, classes_of, shape_of

Inputs = tuple[Tensor, Tensor, Cond]
"""Arguments of a network: x (B, C, H, W), t (B,), cond."""


def count_parameters(network: nn.Module) -> int:
    """Count all parameters."""
    return sum(p.numel() for p in network.parameters())


def inputs(network: nn.Module, batch_size: int = 1, device: torch.device | str = "cpu") -> Inputs:
    """Make noise, times and classes of the shapes that a network tells of itself (``shape``,
    ``num_classes``).

    Raises:
        FlowlitError: if it does not tell its shape.
    """
    name = type(network).__name__
    shape = shape_of(network)
    if shape is None:
        raise FlowlitError(
            f"{name} does not tell the shape of its images; give it an attribute shape = (C, H, W)"
        )
    classes = classes_of(network)
    cond = {"label": torch.arange(batch_size, device=device) % classes} if classes else {}
    x = torch.empty(batch_size, *shape, device=device)
    return (x if x.is_meta else x.normal_()), torch.full((batch_size,), 0.5, device=device), cond


class Macs(NamedTuple):
    """Multiply-accumulate operations of one evaluation for one image, in three parts, since papers count
    different ones.

    Figures printed for DDPM++ (SlimFlow's table 1, Rectified Flow) are ``layers`` alone: the counter knew
    convolutions and linear layers, but not the class that attention's projections were written in. Of ADM,
    whose projections are convolutions, such a counter sees ``layers + projections``. Neither sees
    ``products``. What a machine computes is ``all``.
    """

    layers: int
    """Convolutions and linear layers outside attention."""
    projections: int
    """Linear layers (or 1×1 convolutions) of attention: queries, keys, values, output."""
    products: int
    """Matrix products of attention: queries with keys, weights with values."""

    @property
    def all(self) -> int:
        return sum(self)


def count_macs(network: nn.Module) -> Macs:
    """Count multiply-accumulate operations with PyTorch's FLOP counter (1 MAC = 2 FLOPs), for one image.

    Shapes alone are followed, without arithmetic; a network that looks at values to decide what it does is
    run on one image. Attention is found by what it does: a module that multiplies without owning weights
    makes products, and the layers inside it are its projections. Element-wise work (norms, activations,
    resampling) is not counted, as nowhere in the papers.

    Raises:
        FlowlitError: if the network does not tell the shape of its images.
    """
    try:
        flops = _flops(_shadow(network), inputs(network, 1, "meta"))
    except RuntimeError:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        flops = _flops(network, inputs(network, 1, device))
    modules = {
        f"{type(network).__name__}.{name}".rstrip("."): module for name, module in network.named_modules()
    }
    own = _without_inner(flops)
    multiplying = [name for name, module in modules.items() if own.get(name) and not _has_weights(module)]
    products = sum(own[name] for name in multiplying)
    attention = sum(flops[name] for name in multiplying)
    parts = flops["Global"] - attention, attention - products, products
    return Macs(*(part // 2 for part in parts))


def _has_weights(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _without_inner(flops: dict[str, int]) -> dict[str, int]:
    """What each module multiplies itself, without the modules inside it."""
    own = dict(flops)
    for name in flops:
        if (outer := _nearest(name, flops)) is not None:
            own[outer] -= flops[name]
    return own


def _shadow(network: nn.Module) -> nn.Module:
    """A copy whose weights have shapes but no values."""
    weights = {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in network.parameters()}
    return deepcopy(network, {**weights, **{id(b): b.to("meta") for b in network.buffers()}})  # type: ignore[dict-item]


def _flops(network: nn.Module, arguments: Inputs) -> dict[str, int]:
    """FLOPs by name of module, each with what is inside it; "Global" is all of them."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return {"Global": 0, **{name: sum(found.values()) for name, found in counter.get_flop_counts().items()}}


def _nearest(name: str, names: Container[str]) -> str | None:
    """The innermost of the modules around one that was called; lists of modules are not.

    >>> _nearest("UNet.encoder.0.block", {"UNet", "UNet.encoder.0"})
    'UNet.encoder.0'
    """
    while name := name.rpartition(".")[0]:
        if name in names:
            return name
    return None


def count_flops(loss: Callable[..., Tensor], *modules: nn.Module) -> int:
    """Count floating-point operations of a loss and of its gradients, whatever networks take part, by
    PyTorch's FLOP counter.

    Of matrix products, convolutions and attention alone; 1 multiply-accumulate = 2. What is recomputed in the
    backward pass counts once. Only shapes are followed, in copies of the modules as they were before
    compiling: nothing is computed, no random number drawn, and nothing of theirs changed.

    Args:
        loss: takes the copies, and makes a scalar.
        modules: that take part. Networks that they hold as ``Frozen`` are copied, too.

    Raises:
        RuntimeError: if a value decides what is done.
    """
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    copies = [_imitation(module, shapes) for module in modules]
    trained = [p for copy in copies for p in copy.parameters() if p.requires_grad]
    with shapes, FlopCounterMode(display=False) as counter:
        torch.autograd.grad(loss(*copies), trained, allow_unused=True)
    return counter.get_total_flops()


def _imitation(module: nn.Module, shapes: FakeTensorMode) -> nn.Module:
    """A copy whose weights and buffers have shapes, devices and types, but no values."""
    with shapes:
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p), p.requires_grad) for p in module.parameters()
        }
        memo |= {id(b): torch.empty_like(b) for b in module.buffers()}
    for frozen in (
        value for part in module.modules() for value in vars(part).values() if isinstance(value, Frozen)
    ):
        memo[id(frozen)] = copy = Frozen(_imitation(frozen.network, shapes))
        copy._device = frozen._device or next(
            (p.device for p in frozen.network.parameters()), None
        )  # shapes cannot be moved
    imitation = deepcopy(module, memo)
    for part in imitation.modules():
        vars(part).pop("_recomputed", None)
    return imitation
