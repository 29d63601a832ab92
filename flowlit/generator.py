"""A generator is a network, a solver and a codec: noise in, images out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .blocks import InBlocks
from .codecs import Pixels
from .couplings.noise import SeededNoise
from .networks.description import build
from .networks.files import Weights, read_contents
from .networks.pretrained import take
from .types import Codec, Cond, FlowlitError, Solver


@dataclass
class Generator:
    """Turn noise into images.

    >>> # generator = flowlit.load("runs/slimflow_digits/distill/checkpoints/last.ckpt")
    >>> # images = generator.sample(16, seed=0)        # uint8 (16, 1, 8, 8)
    """

    network: nn.Module
    solver: Solver
    codec: Codec
    shape: tuple[int, ...] | None = None
    num_classes: int = 0

    @torch.no_grad()
    def __call__(self, x0: Tensor, cond: Cond = {}) -> Tensor:
        """Noise (B, C, H, W) -> uint8 images (B, C, H, W)."""
        return self.codec.decode(self.solver(InBlocks(self.network), x0, cond).x1)

    def sample(self, num: int, seed: int = 0, batch_size: int = 256) -> Tensor:
        """Generate images 0 … num - 1 of a seed, uint8 (num, C, H, W); labels are balanced by index.

        Image i depends on (seed, i) alone.
        """
        if self.shape is None:
            raise FlowlitError("the network does not tell its image shape; call the generator with noise of your own")
        noise = SeededNoise(self.shape, num, seed, self.num_classes)
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        batches = DataLoader(noise, batch_size=batch_size)
        return torch.cat([self(n.x0.to(device), {k: v.to(device) for k, v in n.cond.items()}).cpu() for n in batches])


def load(checkpoint: str, weights: Weights = "ema", solver: Solver | None = None, network: nn.Module | None = None) -> Generator:
    """Read a generator from a checkpoint of ``flowlit fit`` or ``flowlit convert``, or another that ``pretrained`` reads.

    Args:
        checkpoint: path of the file.
        weights: "ema", "raw", or the name of another average that the run kept.
        solver: None takes the first solver of the module that was trained (one Euler step for a one-step student).
        network: only for networks that the checkpoint does not describe.

    Raises:
        FlowlitError: as ``pretrained``.
    """
    contents = read_contents(checkpoint)
    facts, net = contents.facts, take(contents, checkpoint, weights, network).requires_grad_(False)
    if solver is None:
        if facts.get("solver") is None:
            raise FlowlitError(
                f"checkpoint {checkpoint} does not tell its solver; give one, e.g. solver=flowlit.solvers.Euler(1)"
            )
        solver = build(facts["solver"], Solver)
    codec = build(facts["codec"], Codec) if facts.get("codec") else Pixels()
    return Generator(net, solver, codec, getattr(net, "shape", None), getattr(net, "num_classes", 0))
