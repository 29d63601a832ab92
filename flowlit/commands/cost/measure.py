"""Seconds of networks on a device, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from ..._support.machine import processor
from ..._support.progress import Bar
from ...errors import FlowlitError
from ...metrics.speed import measure_speed
from .models import Model


def check_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here.

    Raises:
        FlowlitError: with PyTorch's own reason.
    """
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: without CUDA
        raise FlowlitError(f"--device {device} cannot be used ({str(error).splitlines()[0]})") from error


def measure(models: Sequence[Model], name: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Time each network on a device, showing progress; return the facts that times depend on."""
    device = torch.device(name)
    with Bar(total=2 * (1 + repeats) * len(models), desc="Timing", unit=" calls", leave=False) as bar:
        for model in models:
            bar.set_postfix_str(model.name)
            model.speed = measure_speed(model.network, batch_size, repeats, device, bar.update)
            model.network.to("cpu")
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"{processor()} ({device})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": batch_size,
        "repeats": repeats,
    }
