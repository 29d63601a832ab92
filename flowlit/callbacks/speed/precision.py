"""Precision of matrix products."""

from __future__ import annotations

from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from ...ranges import Checked


class MatmulPrecision(Checked, Callback):
    """Choose how a GPU multiplies float32 numbers, in matrix products and convolutions; no effect on a CPU.

    Without it PyTorch takes float32 for products, but TF32 (10 bits of mantissa instead of 23) for
    convolutions. Weights, averages and the optimizer stay float32. The setting of before is restored
    afterwards.

    Args:
        precision: "highest" is float32 for both, "high" TF32 for both, "medium" allows bfloat16 in products.
    """

    def __init__(self, precision: Literal["highest", "high", "medium"] = "high"):
        self.precision = precision
        self._before: tuple[str, bool] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._before is None:
            self._before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        _set_precision(self.precision, self.precision != "highest")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._before is not None:
            _set_precision(*self._before)
            self._before = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "")


def _set_precision(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
