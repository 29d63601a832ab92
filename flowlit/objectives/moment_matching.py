"""Matching of moments: samples of a few steps are drawn to real images by a kernel of features, alone.

There is no critic and no teacher: any velocity with a solver of some steps is finetuned, end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..frozen import FrozenLayers
from ..ranges import PositiveInt
from ..types import Objective, Pair, Solver, VelocityField
from .distances import pooled


def mmd_loss(generated: Tensor, real: Tensor, *, degree: int = 3) -> Tensor:
    """Return the unbiased estimate of MMD², (), of features (B, d) and (M, d), in float64.

    Its kernel is (⟨a, b⟩ / d + 1)^degree; pairs of an image with itself do not count. Degree 1 sees means
    alone, 2 covariances, too. It may be slightly negative. Aiello et al. 2023 (2301.07969).

    Raises:
        FlowlitError: for fewer than two rows of either.
    """
    if min(len(generated), len(real)) < 2:
        raise FlowlitError(
            f"mmd_loss: found {len(generated)} generated and {len(real)} real rows; expected at least 2 each "
            "(data.batch_size, data.device_batch_size)"
        )
    a = generated.double()
    b = real.double()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** degree

    def within(rows: Tensor) -> Tensor:
        values = kernel(rows, rows)
        return (values.sum() - values.diagonal().sum()) / (len(rows) * (len(rows) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


class MomentMatching(Objective):
    """Finetune a velocity so that images of a few steps and real ones have the same features on average.

    The real images are the x1 of the coupling (``Independent``), the noise is its x0. Gradients flow through
    all steps of the solver: memory and time grow with them, which ``ActivationCheckpointing`` lessens. The
    estimate is of the rows that a device works on at a time, and noisy below some dozens of them.

    It lessens nearly what a Fréchet distance in the same features measures: judge it in another network's.
    ``FID`` warns where it measures with this one.

    Args:
        solver: from noise to images, and that of ``solvers`` later: ``Euler`` or another on a grid.
        network: takes images (B, C, H, W) in [-1, 1] (x1 of the model's codec), of which none is clamped;
            frozen here, and evaluated in float32. ``flowlit.networks.pretrained`` reads a classifier,
            ``flowlit.networks.efficientnet_lite0`` is trained on ImageNet.
        layers: names as in ``network.named_modules()``, whose outputs are averaged over positions. The
            estimates of several are added up.
        degree: of the kernel; moments up to it are matched.
        resize: pixels a side to which images are brought first; None leaves them.
    """

    def __init__(
        self,
        solver: Solver,
        network: nn.Module,
        layers: Sequence[str],
        degree: PositiveInt = 3,
        resize: PositiveInt | None = None,
    ):
        super().__init__()
        self.solver = solver
        self.features = FrozenLayers(network, layers, resize)
        self.degree = degree

    def on_attach(self, module: nn.Module) -> None:
        """Refuse a module that does not generate as it is trained; what it trains is no flow.

        Raises:
            FlowlitError: naming the solver to add.
        """
        solvers = cast(dict[str, Solver], getattr(module, "solvers", {}))
        if self.solver not in solvers.values():
            names = ", ".join(map(str, solvers.values()))
            raise FlowlitError(
                f"MomentMatching trains for {self.solver}, but model.solvers are {names or 'none'}; expected "
                "it among them, first"
            )
        module.trains_flow = False  # type: ignore[assignment]

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": ()}."""
        x = self.solver(velocity, pair.x0, pair.cond).x1
        if torch.is_grad_enabled() and not x.requires_grad:
            raise FlowlitError(
                f"MomentMatching: the samples of {self.solver} have no gradient; expected a solver that "
                "keeps the graph, e.g. {class_path: flowlit.solvers.Euler, init_args: {steps: 5}}"
            )
        ours = self.features(x)
        with torch.no_grad():
            theirs = self.features(pair.x1)
        parts = [mmd_loss(pooled(ours[name]), pooled(theirs[name]), degree=self.degree) for name in ours]
        return {"loss": torch.stack(parts).sum().to(x.dtype)}
