"""The plain baselines: float32, eager, pairs as tensors in RAM, averages in a Python loop, the loss read in
every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

HORIZON = 300_000
WARM_UP = 5_000


class Training:
    """A training script of annealing reflow, or with a ``guide`` of flow-guided distillation, as research
    code has it.

    Args:
        network: the student; it is trained in place.
        x0, x1: pairs in RAM, float32 (N, C, H, W).
        batch: pairs a step.
        device: of the network.
        guide: the small 2-rectified flow that is distilled.
    """

    def __init__(
        self,
        network: nn.Module,
        x0: Tensor,
        x1: Tensor,
        batch: int,
        device: str,
        guide: nn.Module | None = None,
    ):
        self.network, self.guide = network.to(device).train(), guide and guide.to(device).eval()
        self.x0, self.x1, self.batch, self.device = x0, x1, batch, device
        self.parameters = list(self.network.parameters())
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.Adam(self.parameters, lr=2e-4)
        self.step, self.losses = 0, [0.0]

    def steps(self, count: int) -> int:
        """Train; return how many samples that took."""
        for _ in range(count):
            x0, x1 = self.draw()
            loss = self.reflow(x0, x1) if self.guide is None else self.distillation(x0, x1)
            self.optimizer.zero_grad()
            loss.backward()
            for group in self.optimizer.param_groups:
                group["lr"] = 2e-4 * min(1.0, (self.step + 1) / WARM_UP)
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            move_averages(self.averages, self.network, 0.999999)
            self.losses.append(loss.item())
            self.step += 1
        return count * self.batch

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pick rows in RAM, and mirror half of them."""
        rows = torch.randint(len(self.x0), (self.batch,))
        x0, x1 = self.x0[rows].to(self.device), self.x1[rows].to(self.device)
        mirrored = (torch.rand(self.batch, device=self.device) < 0.5)[:, None, None, None]
        return torch.where(mirrored, x0.flip(-1), x0), torch.where(mirrored, x1.flip(-1), x1)

    def reflow(self, x0: Tensor, x1: Tensor) -> Tensor:
        """SlimFlow, section 3.1."""
        beta = max(0.0, 1 - self.step / HORIZON)
        x0 = math.sqrt(1 - beta**2) * x0 + beta * torch.randn_like(x0)
        t = torch.rand(self.batch, device=self.device) * 0.999 + 0.001
        t_ = t[:, None, None, None]
        predicted = self.network((1 - t_) * x0 + t_ * x1, t)
        return torch.mean((predicted - (x1 - x0)) ** 2)

    def distillation(self, x0: Tensor, x1: Tensor) -> Tensor:
        """SlimFlow, section 3.2, with the squared error."""
        zeros = torch.zeros(self.batch, device=self.device)
        precise = torch.mean((x0 + self.network(x0, zeros) - x1) ** 2)
        noise = torch.randn_like(x0)
        velocity = self.network(noise, zeros)
        t = torch.rand(self.batch, device=self.device) * 0.6 + 0.2
        t_ = t[:, None, None, None]
        with torch.no_grad():
            middle = noise + t_ * velocity
            target = middle + (1 - t_) * self.guide(middle, t)  # type: ignore[misc]
        return precise + torch.mean((noise + velocity - target) ** 2)


@torch.no_grad()
def move_averages(averages: list[Tensor], network: nn.Module, decay: float) -> None:
    """One parameter after the other."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for average, parameter in zip(averages, parameters, strict=True):
        average.sub_((1 - decay) * (average - parameter))


@torch.no_grad()
def one_step(network: nn.Module, shape: tuple[int, ...], device: str) -> Callable[[int], np.ndarray]:
    """A one-step generator in float32: number of images -> uint8 (N, H, W, C)."""
    network = network.to(device).eval()

    @torch.no_grad()
    def generate(number: int) -> np.ndarray:
        noise = torch.randn(number, *shape, device=device)
        images = noise + network(noise, torch.zeros(number, device=device))
        return ((images + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return generate


def statistics(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of features (N, D) in float64, of everything at once."""
    whole = features.astype(np.float64)
    return whole.mean(0), np.cov(whole, rowvar=False)
