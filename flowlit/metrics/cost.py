"""Costs of a network that do not depend on the machine: parameters, multiplications, FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from copy import copy, deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .._support.velocities import blank_images
from ..errors import FlowlitError
from ..frozen import Frozen
from ..types import Cond, classes_of, reads_of, shape_of

Inputs = tuple[Tensor, Tensor, Cond]
"""Arguments of a network: x (B, C, H, W), t (B,), cond."""


def count_parameters(network: nn.Module) -> int:
    """Count all parameters."""
    return sum(p.numel() for p in network.parameters())


def inputs(network: nn.Module, batch_size: int = 1, device: torch.device | str = "cpu") -> Inputs:
    """Make noise, times and classes of the shapes that a network states (``shape``, ``num_classes``).

    Raises:
        FlowlitError: if it states no shape.
    """
    shape = shape_of(network)
    if shape is None:
        raise FlowlitError(
            f"{type(network).__name__} does not state the shape of its images; give it an attribute "
            "shape = (C, H, W)"
        )
    classes = classes_of(network)
    cond = {"label": torch.arange(batch_size, device=device) % classes} if classes else {}
    x = torch.empty(batch_size, *shape, device=device)
    cond |= blank_images(reads_of(network) or (), x)
    return (x if x.is_meta else x.normal_()), torch.full((batch_size,), 0.5, device=device), cond


class Macs(NamedTuple):
    """Multiply-accumulate operations of one evaluation for one image, in three parts, since papers count
    different ones.

    Figures printed for DDPM++ (SlimFlow's table 1, Rectified Flow) are ``layers`` alone: the authors' counter
    counted convolutions and linear layers, but not the class of attention's projections. Of ADM, whose
    projections are convolutions, such a counter sees ``layers + projections``. Neither sees ``products``. A
    machine computes ``all``.
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

    Shapes alone are followed, without arithmetic; a network whose work depends on values is run on one image.
    Attention is recognised by its work: a module that multiplies without owning weights makes products, and
    the layers inside it are its projections. Element-wise work (norms, activations, resampling) is not
    counted, as nowhere in the papers.

    Raises:
        FlowlitError: if the network does not state the shape of its images.
    """
    flops = _flops_by_module(network)
    modules = {
        f"{type(network).__name__}.{name}".rstrip("."): module for name, module in network.named_modules()
    }
    own = _without_inner(flops)
    multiplying = [name for name, module in modules.items() if own.get(name) and not _has_weights(module)]
    products = sum(own[name] for name in multiplying)
    attention = sum(flops[name] for name in multiplying)
    parts = flops["Global"] - attention, attention - products, products
    return Macs(*(part // 2 for part in parts))


def shares(network: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """Return the shares of one evaluation's multiplications that parts of a network make, by their names.

    Raises:
        FlowlitError: as ``count_macs``.
    """
    flops = _flops_by_module(network)
    return {name: flops.get(f"{type(network).__name__}.{name}", 0) / flops["Global"] for name in names}


def _flops_by_module(network: nn.Module) -> dict[str, int]:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        fake = _fake_copy(network, shapes)
        with shapes:
            return _flops(fake, inputs(fake, 1, device))
    except RuntimeError:
        return _flops(network, inputs(network, 1, device))


def _has_weights(module: nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


def _without_inner(flops: dict[str, int]) -> dict[str, int]:
    """Return the FLOPs of each module without those of the modules inside it."""
    own = dict(flops)
    for name in flops:
        outer = _nearest(name, flops)
        if outer is not None:
            own[outer] -= flops[name]
    return own


def _flops(network: nn.Module, arguments: Inputs) -> dict[str, int]:
    """Return FLOPs by name of module, each with those inside it; "Global" is all of them.

    Attention is decomposed into matrix products: PyTorch's counter has no formula for some fused kernels.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return {"Global": 0, **{name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}}


def _nearest(name: str, names: Container[str]) -> str | None:
    """Return the innermost of the modules around one that was called; lists of modules are not.

    >>> _nearest("UNet.encoder.0.block", {"UNet", "UNet.encoder.0"})
    'UNet.encoder.0'
    """
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return None


def count_flops(loss: Callable[..., Tensor], *modules: nn.Module) -> int:
    """Count floating-point operations of a loss and of its gradients, by PyTorch's FLOP counter.

    Of matrix products, convolutions and attention alone; 1 multiply-accumulate = 2. What is recomputed in the
    backward pass counts once. Only shapes are followed, in copies of the modules as they were before
    compiling: nothing is computed, no random number drawn, and nothing of theirs changed.

    Args:
        loss: takes the copies, and returns a scalar.
        modules: that take part. Networks that they hold as ``Frozen`` are copied, too.

    Raises:
        RuntimeError: if the work depends on values.
    """
    shapes = FakeTensorMode(allow_non_fake_inputs=True)
    copies = [_fake_copy(module, shapes) for module in modules]
    trained = [p for copy in copies for p in copy.parameters() if p.requires_grad]
    with shapes, FlopCounterMode(display=False) as counter:
        torch.autograd.grad(loss(*copies), trained, allow_unused=True)
    return counter.get_total_flops()


def _fake_copy(module: nn.Module, shapes: FakeTensorMode) -> nn.Module:
    """Copy a module; weights and buffers of the copy have shapes, devices and types, but no values."""
    with shapes:
        memo: dict[int, Any] = {
            id(p): nn.Parameter(torch.empty_like(p), p.requires_grad) for p in module.parameters()
        }
        memo |= {id(b): torch.empty_like(b) for b in module.buffers()}
    attributes = [value for part in module.modules() for value in vars(part).values()]
    for frozen in [value for value in attributes if isinstance(value, Frozen)]:
        inner = copy(frozen)
        inner.observer = None
        inner.network = _fake_copy(frozen.network, shapes)
        first = next((p.device for p in frozen.network.parameters()), None)
        inner._device = frozen._device or first  # shapes cannot be moved
        memo[id(frozen)] = inner
    result = deepcopy(module, memo)
    for part in result.modules():
        vars(part).pop("_recomputed", None)
    return result
