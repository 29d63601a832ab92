"""The exact velocity of a finite set of images: an oracle that needs no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from ..errors import FlowlitError
from ..paths.straight import expand
from ..ranges import Checked, PositiveFloat
from ..types import Codec, Cond


class EmpiricalFlow(Checked, nn.Module):
    """The minimiser of the rectified-flow loss for independent noise and the empirical law of ``images``.

    v(x, t) = (Σ w_i x_i - x) / (1 - t), with w the softmax over i of -‖x - t x_i‖² / (2 (1 - t)²). Its ODE
    ends on the images themselves; use it to test solvers, couplings, stores and metrics, and as a limit that
    no teacher should reach (memory). With labels in ``cond``, only the images of that class count. Times are
    clamped to 1 - ``eps``.

    Args:
        images: items {"x1": uint8 (C, H, W), "cond"}; read at the first call. Or a float tensor (N, C, H, W).
        eps: distance to t = 1 at which times stop.
        codec: images to x1; None scales their pixels to [-1, 1].
    """

    reads = frozenset({"label"})

    def __init__(self, images: Dataset | Tensor, eps: PositiveFloat = 1e-3, codec: Codec | None = None):
        super().__init__()
        if eps >= 1:
            raise FlowlitError(f"EmpiricalFlow: eps is {eps}; expected a distance to t = 1 below 1")
        self.images = images
        self.eps = eps
        self.image_codec = codec
        self._x1: Tensor | None = None
        self._label: Tensor | None = None

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), of all images or of a label (B,)."""
        x1, label = self._data(x)
        t = t.to(x.dtype).clamp_max(1 - self.eps)
        scale = (1 - t)[:, None]
        # ‖x - t x_i‖², up to the term ‖x‖², which the softmax cancels
        flat = x.flatten(1)
        square = t[:, None] ** 2 * x1.flatten(1).square().sum(1) - 2 * t[:, None] * (flat @ x1.flatten(1).T)
        logits = -square / (2 * scale**2)
        if "label" in cond:
            if label is None:
                raise FlowlitError("EmpiricalFlow: cond has labels, but its images have none")
            logits = logits.masked_fill(label[None, :] != cond["label"][:, None], -torch.inf)
        mean = (logits.softmax(1) @ x1.flatten(1)).reshape(x.shape)
        return (mean - x) / (1 - expand(t, x))

    def _data(self, like: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._x1 is None:
            if isinstance(self.images, Tensor):
                self._x1 = self.images
            else:
                items = default_collate([self.images[i] for i in range(len(self.images))])  # type: ignore[arg-type]
                images = items["x1"]
                codec = self.image_codec
                self._x1 = images.float() / 127.5 - 1 if codec is None else codec.encode(images)
                self._label = items["cond"].get("label")
        if self._x1.device != like.device or self._x1.dtype != like.dtype:
            self._x1 = self._x1.to(like.device, like.dtype)
            self._label = None if self._label is None else self._label.to(like.device)
        return self._x1, self._label
