"""Real images, each with the noise of its batch that suits it best: minibatch optimal transport."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FlowlitError
from ..types import Pair
from .independent import Independent


def assign(x0: Tensor, x1: Tensor) -> Tensor:
    """Find the permutation p, (B,) int64, for which Σ ‖x0[p[i]] - x1[i]‖² is least.

    The squares of the lengths are the same for all permutations, so it is the one for which Σ ⟨x0[p[i]],
    x1[i]⟩ is largest: only the (B, B) matrix of these products is stored. It is computed in float64, whatever
    the precision of training.

    Args:
        x0: (B, …), finite.
        x1: (B, …), finite.

    >>> assign(torch.tensor([[5.0], [1.0], [3.0]]), torch.tensor([[0.0], [4.0], [2.0]]))
    tensor([1, 0, 2])
    """
    products = x1.double().flatten(1) @ x0.double().flatten(1).T
    _, best = linear_sum_assignment(products.cpu().numpy(), maximize=True)
    return torch.from_numpy(best).to(x0.device)


class OptimalTransport(Independent):
    """Images and noise, paired within each batch so that the sum of their squared distances is least;
    otherwise as ``Independent``.

    Use it for teachers without classes: their flows are straighter from the start. Pooladian et al. 2023
    (2304.14772), Tong et al. 2023 (2302.00482). Images are mirrored before the assignment, which is then that
    of the images trained on. The laws of noise and images stay; only their pairing changes.

    The batch is that of one device, and accumulated batches count as batches: the coupling, unlike all
    others, depends on their number, and tends to the independent one for batches of one. It costs time that
    grows as B³ at most: about 3 ms for 128 images of 3×32×32 on one CPU core, 50 ms for 512. On a GPU each
    step waits for it.

    Labels are refused: the noise of one class would be what the other classes of its batch leave, which is
    not N(0, I), while generation starts from N(0, I) in each class. Args as for ``Independent``.
    """

    def dataset(self) -> Dataset:
        images = super().dataset()
        if self.images[0]["cond"]:
            raise FlowlitError(
                f"OptimalTransport: {self.source} bring labels, but noise assigned across classes is not "
                "N(0, I) within one; set labels: false, or use flowlit.couplings.Independent"
            )
        return images

    def complete(self, batch: Any, device: torch.device) -> Pair:
        pair = super().complete(batch, device)
        return pair._replace(x0=pair.x0[assign(pair.x0, pair.x1)])
