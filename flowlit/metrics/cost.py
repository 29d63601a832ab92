"""What a network costs: parameters, multiplications, seconds, and images per second; and what a device can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Container
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..frozen import Frozen
from ..types import Cond, FlowlitError

Inputs = tuple[Tensor, Tensor, Cond]
"""Arguments of a network: x (B, C, H, W), t (B,), cond."""


def count_parameters(network: nn.Module) -> int:
    """Count all parameters."""
    return sum(p.numel() for p in network.parameters())


def inputs(network: nn.Module, batch_size: int = 1, device: torch.device | str = "cpu") -> Inputs:
    """Make noise, times and classes of the shapes that a network tells of itself (``shape``, ``num_classes``).

    Raises:
        FlowlitError: if it does not tell its shape.
    """
    name, shape = type(network).__name__, getattr(network, "shape", None)
    if shape is None:
        raise FlowlitError(f"{name} does not tell the shape of its images; give it an attribute shape = (C, H, W)")
    classes = getattr(network, "num_classes", 0)
    cond = {"label": torch.arange(batch_size, device=device) % classes} if classes else {}
    x = torch.empty(batch_size, *shape, device=device)
    return (x if x.is_meta else x.normal_()), torch.full((batch_size,), 0.5, device=device), cond


class Macs(NamedTuple):
    """Multiply-accumulate operations of one evaluation for one image, in three parts, since papers count different ones.

    Figures printed for DDPM++ (SlimFlow's table 1, Rectified Flow) are ``layers`` alone: the counter knew convolutions and
    linear layers, but not the class that attention's projections were written in. Of ADM, whose projections are
    convolutions, such a counter sees ``layers + projections``. Neither sees ``products``. What a machine computes is ``all``.
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

    Shapes alone are followed, without arithmetic; a network that looks at values to decide what it does is run on one image.
    Attention is found by what it does: a module that multiplies without owning weights makes products, and the layers inside
    it are its projections. Element-wise work (norms, activations, resampling) is not counted, as nowhere in the papers.

    Raises:
        FlowlitError: if the network does not tell the shape of its images.
    """
    try:
        flops = _flops(_shadow(network), inputs(network, 1, "meta"))
    except RuntimeError:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        flops = _flops(network, inputs(network, 1, device))
    modules = {f"{type(network).__name__}.{name}".rstrip("."): module for name, module in network.named_modules()}
    own = _without_inner(flops)
    multiplying = [name for name, module in modules.items() if own.get(name) and not _has_weights(module)]
    products, attention = sum(own[name] for name in multiplying), sum(flops[name] for name in multiplying)
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
    """Count floating-point operations of a loss and of its gradients, whatever networks take part, by PyTorch's FLOP counter.

    Of matrix products, convolutions and attention alone; 1 multiply-accumulate = 2. What is recomputed in the backward pass
    counts once. Only shapes are followed, in copies of the modules as they were before compiling: nothing is computed, no random
    number drawn, and nothing of theirs changed.

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
        memo: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p), p.requires_grad) for p in module.parameters()}
        memo |= {id(b): torch.empty_like(b) for b in module.buffers()}
    for frozen in (value for part in module.modules() for value in vars(part).values() if isinstance(value, Frozen)):
        memo[id(frozen)] = copy = Frozen(_imitation(frozen.network, shapes))
        copy._device = frozen._device or next((p.device for p in frozen.network.parameters()), None)  # shapes cannot be moved
    imitation = deepcopy(module, memo)
    for part in imitation.modules():
        vars(part).pop("_recomputed", None)
    return imitation


class Speed(NamedTuple):
    """How fast a network is evaluated; medians of repeats."""

    latency: float
    """Seconds for one image alone."""
    spread: float
    """Half the distance between the quartiles of these seconds."""
    images_per_second: float
    """In batches."""


def measure_speed(
    network: nn.Module,
    batch_size: int,
    repeats: int = 5,
    device: torch.device | str = "cpu",
    tick: Callable[[], Any] = lambda: None,
) -> Speed:
    """Time one evaluation in inference mode, of one image and of a batch, each after a warm-up.

    Args:
        network: moved to the device, and put into eval mode.
        batch_size: images of the batch.
        repeats: timed calls of each kind, at least two.
        device: where.
        tick: called after every evaluation, for progress.
    """
    network = network.to(device).eval()
    with torch.inference_mode():
        single, batch = (
            timed(partial(network, *inputs(network, size, device)), repeats, device, tick) for size in (1, batch_size)
        )
    low, median, high = statistics.quantiles(single, n=4, method="inclusive")
    return Speed(median, (high - low) / 2, batch_size / statistics.median(batch))


def timed(
    call: Callable[[], object],
    repeats: int,
    device: torch.device | str | None = None,
    tick: Callable[[], object] = lambda: None,
) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one that warms up; ``tick`` is called after every one."""
    found = []
    for _ in range(1 + repeats):
        found.append(seconds(call, device))
        tick()
    return found[1:]


def seconds(call: Callable[[], object], device: torch.device | str | None = None) -> float:
    """Time a call and what it leaves a GPU to do (that device, or the current one)."""

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize(None if torch.device(device or "cpu").type == "cpu" else device)

    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def images_per_second(generate: Callable[[], object], images: int, repeats: int = 5) -> float:
    """Call ``generate`` once to warm up, then ``repeats`` times; return images / median seconds."""
    return images / statistics.median(timed(generate, repeats))


def matmul_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 5) -> float:
    """Measure how many floating-point operations a second a device does in products of large square matrices.

    A multiply-accumulate counts as two, so a product of n × n takes 2 n³. The median of some products that take 10 ms or more (or
    have n = 16384); well under a second in all, on a CPU with the threads that PyTorch has now. It is what can be reached rather
    than what a data sheet promises. Products of float32 are made as they are set, in TF32 or not.
    """
    size, own = 256, torch.Generator(device).manual_seed(0)  # others go on to draw what they would have
    while True:
        a, b = (torch.randn(size, size, generator=own, device=device).to(dtype) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        if statistics.median(timed(product, 1, device)) >= 0.01 or size >= 16384:
            return 2 * size**3 / statistics.median(timed(product, repeats, device))
        size *= 2


def bandwidth(device: torch.device | str = "cpu", repeats: int = 5) -> float:
    """Measure bytes a second of a device's memory in a large sum of two arrays; what is read and what is written count both.

    The best of some sums of arrays of 1 GiB on a GPU, of 128 MiB on a CPU.
    """
    size = 2**27 if torch.device(device).type == "cpu" else 2**30
    a, b, total = (torch.zeros(size // 4, device=device) for _ in range(3))
    return 3 * size / min(timed(partial(torch.add, a, b, out=total), repeats, device))
