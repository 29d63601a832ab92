"""Shared by the tests: fields with known solutions, a counting wrapper, hand-made checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from flowlit.metrics.base import FeatureExtractor
from flowlit.networks import SmallClassifier, UNet
from flowlit.paths import expand

GOLDEN = Path(__file__).parents[1] / "golden"


def tiny_unet(**changes) -> UNet:
    """A network of a few thousand parameters that runs in milliseconds."""
    settings = {
        "resolution": 8,
        "in_channels": 1,
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (4,),
        "dropout": 0.0,
    }
    return UNet(**{**settings, **changes})


def randomise(network: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """Give every parameter a random value, so that the nearly-zero layers of a fresh network cannot hide a
    mistake.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def named(value: object) -> str:
    """A name for a parameter of a test that is the same in every process: without addresses."""
    return re.sub(r" (object )?at 0x\w+", "", str(value))


class CallCounter:
    """Count evaluations per sample independently of the solver: ``cond["id"]`` says which samples are in a
    call.
    """

    def __init__(self, field, size: int):
        self.field, self.counts = field, torch.zeros(size, dtype=torch.int64)
        self.cond = {"id": torch.arange(size)}

    def __call__(self, x: Tensor, t: Tensor, cond) -> Tensor:
        assert len(x) == len(t) == len(cond["id"])
        self.counts += torch.bincount(cond["id"], minlength=len(self.counts))
        return self.field(x, t, cond)


class LinearField(nn.Module):
    """v(x, t) = a x + b t + c, with trainable numbers; counts its calls."""

    def __init__(self, a: float = 0.3, b: float = -0.2, c: float = 0.1):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(value)) for value in (a, b, c))
        self.called = 0

    def forward(self, x: Tensor, t: Tensor, cond={}) -> Tensor:
        self.called += 1
        return self.a * x + self.b * expand(t, x) + self.c


def straight(x: Tensor, t: Tensor, cond={}) -> Tensor:
    """The field of the coupling x1 = 3 x0 + 1: it varies with x and t, but is constant along every
    trajectory.
    """
    t = expand(t, x)
    return 2 * (x - t) / (1 + 2 * t) + 1


def write_checkpoint(path: Path, trained: nn.Module, ema: nn.Module | None = None, **facts) -> str:
    """Write what ``flowlit fit`` writes, as far as readers of networks care."""
    state = {f"network.{key}": value for key, value in trained.state_dict().items()}
    state |= {f"ema.{key}": value for key, value in (ema or trained).state_dict().items()}
    facts = {"network": getattr(trained, "spec", None), "ema_updates": 0 if ema is None else 5, **facts}
    torch.save({"state_dict": state, "flowlit": facts}, path)
    return str(path)


class Mean(FeatureExtractor):
    """Two numbers an image: cheap, and known."""

    name = "mean"

    def __init__(self, weight: float = 1.0):
        self.weight, self.calls = weight, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += len(images)
        flat = images.float().flatten(1) * self.weight
        return torch.stack([flat.mean(1), flat.std(1)], 1)

    def fingerprint(self) -> str:
        return str(self.weight)


def classifier(seed: int = 0) -> nn.Module:
    """A classifier with random weights, whose features and classes differ from image to image."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmallClassifier(dim=8)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.normal_(network.head.weight)
    return network.eval()


def classifier_checkpoint(path: Path, seed: int = 0) -> str:
    """Its checkpoint."""
    return write_checkpoint(path, classifier(seed))


def inception_weights(path: Path) -> str:
    """Random weights in the format of torch-fidelity's file, which is too large to have here."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Fresh(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *args, **kwargs):
            pass

    torch.save({}, path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Fresh("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.normal_(network.fc.weight, std=0.05)
    torch.save(network.state_dict(), path)
    return str(path)
