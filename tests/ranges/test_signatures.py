"""Every number in a signature of the vocabulary has a range, and nothing beyond it is accepted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from texts import Hashed
from tools import tiny_unet
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformer_pipelines import SD3, Z_IMAGE

import flowlit
from flowlit import networks
from flowlit import ranges as r
from flowlit.commands.couple.options import CoupleOptions
from flowlit.couplings import Cached, NoisedImage, SeededNoise
from flowlit.data import VAE, AveragePool, Digits, Pixels, Prompts
from flowlit.errors import FlowlitError
from flowlit.networks import DiffusersAutoencoder, DiT, LatentAutoencoder, StoredStatistics, VQAutoencoder
from flowlit.objectives import RectifiedFlow
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.rewards import Brightness
from flowlit.objectives.score_distillation import DMD
from flowlit.paths import DiscreteVP
from flowlit.ranges.kinds import EXPECTED
from flowlit.solvers import Euler

HOSTILE = (0, -1, math.nan, math.inf, -math.inf, "3", None, True, 2.5, 2**70, b"1", [[]])

MEANT = {
    r.Int: (0, -1),
    r.PositiveInt: (),
    r.NonNegativeInt: (0,),
    r.Seed: (0,),
    r.Float: (0, -1, 2.5, 2**70),
    r.PositiveFloat: (2.5, 2**70),
    r.NonNegativeFloat: (0, 2.5, 2**70),
    r.Probability: (0,),
    r.Fraction: (0,),
    r.Share: (),
    r.Name: ("3",),
}
"""Hostile values that are in a range; what a class makes of them is either an object or an error."""

WITHOUT = {
    ("SeededNoise", "labels"): "a number for all samples, or one for each: compared with num_classes",
    ("ImageFolder", "classes"): "names of classes, in any form",
    ("ImageZip", "classes"): "likewise",
    ("Prompts", "classes"): "likewise",
}
"""Arguments whose numbers are checked by other means."""

SMALL = {"resolution": 8, "in_channels": 1, "width": 64, "multipliers": [1], "blocks": 1, "num_classes": 2}

AUTOENCODER = {"encoder": nn.Identity(), "decoder": nn.Identity(), "image_shape": [3, 8, 8]}

DIFFUSERS = {
    "sample_size": 8,
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 4,
}

SWIN = {"resolution": 8, "in_channels": 1, "width": 128, "multipliers": [1], "blocks": 1, "swin_width": 128}

SMALL_VQ = {"channels": 1, "width": 32, "multipliers": [1], "blocks": 1, "latents": 1, "codes": 2}


def stored_vq() -> nn.Module:
    network = VQAutoencoder(**SMALL_VQ)
    network.fingerprint = "x"
    return network


def bare(kind: type[nn.Module]) -> nn.Module:
    """A network of a kind without its layers, for which another package would be needed."""
    network = kind.__new__(kind)
    nn.Module.__init__(network)
    return network


SPECIAL: dict[str, dict[str, Any]] = {
    "VQ": {"autoencoder": stored_vq()},
    "VQAutoencoder": SMALL_VQ,
    "UNet": SMALL,
    "SwinUNet": SWIN,
    "ADM": SMALL,
    "DiT": {"resolution": 8, "in_channels": 1, "width": 64, "depth": 1, "heads": 1},
    "ClassifierFreeGuidance": {"network": tiny_unet(num_classes=3, label_dropout=0.1), "scale": 2.0},
    "EDM": {"network": tiny_unet(time_scale=1.0)},
    "Adams": {"steps": 4},
    "DPMSolverV3": {"steps": 4, "statistics": StoredStatistics("x.safetensors")},
    "Geometric": {"every": 10},
    "Sigmoid": {"begin": 0, "end": 10},
    "CombinedGame": {"objectives": {"a": DMD(tiny_unet())}},
    "ConcatenatedImage": {"network": tiny_unet()},
    "AveragePool": {"scale": 2},
    "Bicubic": {"scale": 2},
    "OneMoreStep": {"until": 0.5},
    "ConvDecoder": {"in_channels": 3},
    "LatentAutoencoder": AUTOENCODER,
    "CodecModule": {"network": LatentAutoencoder(**AUTOENCODER)},
    "TimmEncoder": {"weights": "stored"},
    "Shifted": {"shift": 2.0},
    "Prompts": {"texts": ["a", "b"]},
    "PromptAccuracy": {"classes": [0, 1]},
    "DiffusersUNet": {"config": DIFFUSERS},
    "DiffusersSD3": {"config": SD3},
    "DiffusersZImage": {"config": Z_IMAGE},
    "DiffusersAutoencoder": {"config": {"sample_size": 8}},
    "AutoencoderModule": {"network": bare(DiffusersAutoencoder), "into": "vae"},
    "PSO": {"reference": tiny_unet(), "steps": 1},
    "OfflinePSO": {"reference": tiny_unet()},
    "LowRank": {"layers": ["stem"]},
    "DecodedDistance": {"codec": VAE("vae"), "distance": SquaredError()},
    "DecodedReward": {"codec": VAE("vae"), "reward": Brightness()},
    "Chain": {"steps": [AveragePool(2)]},
}
"""Arguments of a class beside those of ``EXAMPLES``: small networks, and what a wrapper needs."""

EXAMPLES: dict[str, Any] = {
    "network": tiny_unet(),
    "teacher": tiny_unet(),
    "images": Digits(limit=4),
    "solver": Euler(1),
    "exact": Euler(1),
    "codec": Pixels(),
    "noise": SeededNoise((1, 8, 8), 4),
    "validation": None,
    "noise_batch_size": 4,
    "test_num": 4,
    "num_workers": 0,
    "objectives": {"a": RectifiedFlow()},
    "reward": Brightness(),
    "only": [0],
    "classes": [[0], [1]],
    "students": [tiny_unet(num_classes=2), tiny_unet(num_classes=2)],
    "guide": tiny_unet(num_classes=3, label_dropout=0.1),
    "distances": [SquaredError()],
    "optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0),
    "layers": ["stem"],
    "layer": "stem",
    "name": "x",
    "steps": 2,
    "evaluations": 6,
    "k": 2,
    "value": 0.5,
    "scale": 2.0,
    "points": [(0, 1.0)],
    "times": [0.0, 1.0],
    "shape": (1, 8, 8),
    "num": 4,
    "tile": 8,
    "overlap": 2,
    "std": 0.1,
    "sigma": 0.2,
    "degradation": AveragePool(2),
    "start": NoisedImage(0.2),
    "end": 0.5,
    "first": tiny_unet(),
    "diffusion": DiscreteVP(),
    "parts": [Cached("x")],
    "shares": [1.0],
    "store": "x",
    "root": "x",
    "paths": "x.zip",
    "folder": "x",
    "prompts": Prompts(texts=["a", "b"]),
    "encoder": Hashed(),
}
"""Values of arguments that have no default."""


def is_vocabulary(kind: Any) -> bool:
    """Whether people build objects of a class, in YAML or in Python."""
    if not inspect.isclass(kind) or kind.__name__.startswith("_") or issubclass(kind, tuple):
        return False
    if issubclass(kind, nn.Module) and kind.__module__.startswith("flowlit.networks"):
        return getattr(networks, kind.__name__, None) is kind
    bases = (r.Checked, Callback, pl.LightningModule, pl.LightningDataModule, LRScheduler)
    return issubclass(kind, bases) and not inspect.isabstract(kind)


@cache
def vocabulary() -> dict[str, type]:
    """All such classes of flowlit by name, with the module where the name occurs twice."""
    classes: dict[str, type] = {}
    for module in walk_packages(flowlit.__path__, "flowlit."):
        if not module.name.startswith(("flowlit.commands", "flowlit.__main__")):
            for name, kind in vars(import_module(module.name)).items():
                if is_vocabulary(kind) and kind.__module__ == module.name:
                    classes[f"{module.name.rpartition('.')[2]}.{name}"] = kind
    return classes | {"options.CoupleOptions": CoupleOptions, "dit.DiT": DiT}


def arguments(kind: type) -> dict[str, Any]:
    """The annotations of a constructor by name, resolved."""
    parameters = inspect.signature(kind).parameters
    hints = get_type_hints(kind if is_dataclass(kind) else kind.__init__)
    return {name: hints[name] for name in parameters if name in hints}


def inside(annotation: Any) -> Iterator[Any]:
    """All types that an annotation is made of."""
    yield annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple, dict, Sequence, Mapping):
        for part in get_args(annotation):
            yield from inside(part)


def containing(annotation: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """Values of an annotation with a hostile one in every place that has a range, and that range."""
    parts = get_args(annotation)
    if annotation in EXPECTED:
        yield annotation, value
    elif get_origin(annotation) in (Union, UnionType):
        for part in parts:
            yield from containing(part, value)
    elif get_origin(annotation) is tuple and ... not in parts:
        for place, part in enumerate(parts):
            for kind, entry in containing(part, value):
                yield kind, tuple(entry if other == place else 1 for other in range(len(parts)))
    elif get_origin(annotation) in (dict, Mapping):
        yield from ((kind, {"a": entry}) for kind, entry in containing(parts[1], value))
    elif get_origin(annotation) in (list, tuple, Sequence):
        yield from ((kind, [entry]) for kind, entry in containing(parts[0], value))


def example(kind: type, annotations: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    own = SPECIAL.get(kind.__name__, {})
    return {name: EXAMPLES[name] for name in required if name in annotations and name not in own} | own


NAMES = sorted(vocabulary())


def test_there_are_classes_of_every_package():
    packages = {kind.__module__.split(".")[1] for kind in vocabulary().values()}
    expected = "callbacks couplings data metrics modules networks objectives paths schedules solvers"
    assert packages >= set(expected.split())
    assert len(NAMES) > 90


def test_each_range_has_a_meaning():
    assert set(MEANT) == {getattr(r, name) for name in r.__all__} & set(EXPECTED)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_range(name):
    kind = vocabulary()[name]
    without = [
        argument
        for argument, annotation in arguments(kind).items()
        if {int, float} & set(inside(annotation)) and (kind.__name__, argument) not in WITHOUT
    ]
    assert without == [], "annotate them with a range of flowlit.ranges, or say in WITHOUT why not"


@pytest.mark.parametrize("name", NAMES)
def test_every_class_compares_its_arguments(name):
    kind = vocabulary()[name]
    ranged = any(part in EXPECTED for annotation in arguments(kind).values() for part in inside(annotation))
    assert issubclass(kind, r.Checked) or not ranged


@pytest.mark.parametrize("name", NAMES)
def test_what_is_beyond_a_range_is_refused_by_name(name):
    kind = vocabulary()[name]
    annotations = arguments(kind)
    for argument, annotation in annotations.items():
        optional = type(None) in get_args(annotation)
        for hostile in HOSTILE:
            for part, value in containing(annotation, hostile):
                given = {**example(kind, annotations), argument: value}
                meant = hostile is not True and hostile in MEANT.get(part, ())
                if meant or (value is None and optional):
                    with suppress(FlowlitError):
                        kind(**given)
                else:
                    with pytest.raises(FlowlitError, match=f"{argument} is "):
                        kind(**given)


@pytest.mark.parametrize("name", NAMES)
def test_flags_are_true_or_false(name):
    kind = vocabulary()[name]
    annotations = arguments(kind)
    for argument, annotation in annotations.items():
        if bool in inside(annotation):
            for hostile in (0, 1, "false", 2.5):
                with pytest.raises(FlowlitError, match=f"{argument} is .*; expected true or false"):
                    kind(**{**example(kind, annotations), argument: hostile})


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_in_their_ranges(name):
    kind = vocabulary()[name]
    annotations = arguments(kind)
    parts = {part for annotation in annotations.values() for part in inside(annotation)}
    if parts & {*EXPECTED, bool}:
        defaults = {
            argument: each.default
            for argument, each in inspect.signature(kind).parameters.items()
            if argument in annotations and each.default is not each.empty
        }
        assert isinstance(kind(**{**defaults, **example(kind, annotations)}), kind)
