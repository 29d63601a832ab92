"""Training and evaluation mode of networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Switch a network to evaluation; afterwards training goes on as before, also in parts of it alone.

    What is no ``nn.Module``, such as a function, has no mode.
    """
    modules = network.modules() if isinstance(network, nn.Module) else ()
    training = [module for module in modules if module.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def training(network: Any) -> Iterator[None]:
    """Switch a network to training mode, and every part of it back to its own afterwards."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    before = [module.training for module in modules]
    if modules:
        network.train()
    try:
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode
