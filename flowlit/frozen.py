"""Networks that are never trained, saved or averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import FlowlitError
from .ranges import Checked, PositiveInt
from .types import evaluations_of, reads_of


class Frozen(Checked):
    """Hide a teacher, guide or perceptual network from everything that walks over modules.

    It is not an ``nn.Module``, so the network is absent from ``state_dict``, optimizers, averages and DDP
    buckets. It stays in eval mode. Its parameters take no gradient, but gradients flow *through* it. It
    follows its input to the input's device, and a deep copy shares it.
    """

    def __init__(self, network: nn.Module):
        self.network = network.requires_grad_(False).eval()
        self.evaluations = evaluations_of(network)
        self.observer: Callable[[Tensor, Any], None] | None = None
        """Called with the input (B, …) and the output of every call, unless it is None."""
        self._device: torch.device | None = None

    @property
    def reads(self) -> frozenset[str] | None:
        """Names of the conditions that the network reads."""
        return reads_of(self.network)

    @property
    def skipping(self) -> Any:
        """The network's way to leave parts out, if it has one."""
        return self.network.skipping

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._device != x.device:
            self.network.to(x.device)
            self._device = x.device
        output = self.network(x, *args, **kwargs)
        if self.observer is not None:
            self.observer(x, output)
        return output

    def __deepcopy__(self, memo: dict) -> Frozen:
        return self

    def __repr__(self) -> str:
        return f"Frozen({type(self.network).__name__})"


class FrozenLayers(Frozen):
    """Activations of named layers of a frozen network.

    Feature extractors (``flowlit.metrics.NetworkFeatures``) and perceptual distances
    (``flowlit.objectives.distances.FeatureDistance``) are made of it, so that any network with named layers
    serves as both. The network computes in float32, also under autocast: small differences of images are
    below the resolution of bfloat16.

    Args:
        network: takes images (B, C, H, W) in [-1, 1].
        layers: names as in ``network.named_modules()``; "" is the network's own output.
        resize: pixels a side to which images are brought first (bilinear, antialiased); None leaves them.

    Raises:
        FlowlitError: naming layers that the network lacks.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], resize: PositiveInt | None = None):
        check_layers(network, layers)
        super().__init__(network)
        self.layers = list(layers)
        self.resize = resize

    def __call__(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the outputs of the layers for images (B, C, H, W), each (B, channels, …), in their order.

        Raises:
            FlowlitError: if the network did not call a layer, or one returned something else than a tensor.
        """
        with collected(self.network, self.layers) as outputs, torch.autocast(x.device.type, enabled=False):
            super().__call__(self._resized(x.float()))
        return outputs

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize is None:
            return x
        return F.interpolate(x, (self.resize, self.resize), mode="bilinear", antialias=True)


def check_layers(network: nn.Module, layers: Sequence[str]) -> None:
    """Refuse names of layers that a network lacks.

    Raises:
        FlowlitError: naming them, and those that there are.
    """
    names = dict(network.named_modules())
    missing = [name for name in layers if name not in names]
    if missing or not layers:
        raise FlowlitError(f"layers {missing or layers} not in {type(network).__name__}: {list(names)[1:]}")


@contextmanager
def collected(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named layers in the calls of a network inside, each (B, channels, …), in their
    order.

    Raises:
        FlowlitError: if the network did not call a layer, or one returned something else than a tensor.
    """
    outputs: dict[str, Tensor] = {}
    # hooks of these calls alone: copies of the network, and others that hold it, are not concerned
    hooks = [
        network.get_submodule(name).register_forward_hook(partial(_store, outputs, name)) for name in layers
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
    unusable = [name for name in layers if not isinstance(outputs.get(name), Tensor)]
    if unusable:
        raise FlowlitError(
            f"layers {unusable} of {type(network).__name__} returned no tensor; expected layers that its "
            "forward pass calls"
        )


def _store(outputs: dict[str, Any], name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = output
