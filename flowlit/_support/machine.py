"""Processor, devices, memory and versions of this machine, for reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .._version import __version__


def hardware(devices: int, device: torch.device) -> dict[str, Any]:
    """Describe the devices of a run, for reports."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": name,
        "kind": device.type,
        "devices": devices,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of packages that numbers depend on."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics", "torch-fidelity", "numpy")
    return {
        "flowlit": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def free_memory(device: torch.device) -> int:
    """Return bytes that are free on a device; of the main memory those that need no swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration):  # not Linux: what is physically there
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
