"""Programs of PyTorch with integers, by torchao: prepared, calibrated on seeded noise, converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._support.extras import needed
from ..._support.progress import Bar
from ...couplings.noise import Noise
from ...errors import FlowlitError
from ..core import NoiseToImages
from ..export.program import example, quiet, sizes_of_inputs
from .sensitivity import calm
from .settings import Settings
from .subject import Subject

PREFIX = "network"
"""Of the names of a network's layers in its program."""


def check_settings(settings: Settings) -> None:
    """Refuse settings that a program of torchao cannot have, and its absence, before any work.

    Raises:
        FlowlitError: naming the option, or the extra.
    """
    chosen = {
        "--budget": settings.has_budget(),
        "--bits 4": settings.bits != 8,
        "--activations 32": settings.activations != 8,
        "--by": settings.by is not None,
        "--coefficients": settings.fit not in (None, "none"),
    }
    for option, is_chosen in chosen.items():
        if is_chosen:
            raise FlowlitError(
                f"{option} is for --into FILE.onnx; a .pt2 has 8 bits everywhere; leave it out"
            )
    with quiet():
        needed("torchao")


def kept_layers(subject: Subject) -> list[str]:
    """Return the layers that stay in float32: of those where what goes in harms most when rounded.

    Args:
        subject: the generator.
    """
    ranges = subject.ranges()
    used = calm(subject.layers, subject.run, ranges)
    return [name for name, place in used.items() if not place.inputs.has_values()]


def with_integers(program: Any, subject: Subject, floating: Sequence[str]) -> Any:
    """Return a program whose layers have weights and activations of 8 bits.

    Args:
        program: ``torch.export.ExportedProgram`` of floats.
        subject: the same generator, whose noise calibrates.
        floating: names of layers that stay as they are.
    """
    with quiet():
        flow = needed("torchao.quantization.pt2e.quantize_pt2e")
        x86 = needed("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    for name in floating:
        quantizer.set_module_name_qconfig(f"{PREFIX}.{name}", None)
    generator = subject.generator
    with torch.no_grad(), quiet():
        module = flow.prepare_pt2e(program.module(), quantizer)
        for each in Bar(subject.noise, desc="Calibration of torchao", unit=" batches", leave=False):
            module(*inputs_of(generator, each))
        module = without_floats(flow.convert_pt2e(module))
        return torch.export.export(module, example(generator), dynamic_shapes=sizes_of_inputs(generator))


def inputs_of(generator: NoiseToImages, batch: Noise) -> tuple[Tensor, ...]:
    """Return noise (B, c, h, w), and labels (B,) where a generator has classes."""
    return (batch.x0, *([batch.cond["label"]] if generator.num_classes else []))


def without_floats(module: Any) -> Any:
    """Remove the weights that integers replace: torchao leaves them, and they would be written, too."""
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_parameters()):
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)
    return module
