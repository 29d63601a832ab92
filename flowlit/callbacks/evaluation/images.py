"""Generated images as files, and what they were made with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from ..._engine.ranks import gathered_objects, on_rank_zero
from ..._support.files import check_room
from ..._support.locks import locked_folder
from ...data.classes import class_names_of
from ...errors import FlowlitError
from ...generators.folder import PictureFolder, made_with, name_of, write_png
from ...networks.checkpoints.fingerprint import fingerprint
from ...ranges import Checked
from ...types import Noise, Solution

SMALLEST = 67
"""Bytes of a PNG at least."""


class ImageWriter(Checked, BasePredictionWriter):
    """Write the images of ``flowlit predict`` as ``00000000.png``, numbered by the index of their noise.

    Beside them stand ``images.csv``, with file, index, class and its name, and ``images.json``, with what
    they were made with. The same command goes on there, also with more images; a folder with images of
    another run is refused.

    Args:
        folder: of the images.
    """

    def __init__(self, folder: str):
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._rows: list[tuple[int, int | None]] = []
        self._images: PictureFolder | None = None
        self._lock = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse predictions that are no images.

        Raises:
            FlowlitError: stating which command makes images.
        """
        if stage == "predict" and not (hasattr(pl_module, "network") and hasattr(pl_module, "codec")):
            raise FlowlitError(
                f"ImageWriter writes the images of flowlit predict; {type(pl_module).__name__} makes none: "
                "remove flowlit.callbacks.ImageWriter from trainer.callbacks (flowlit couplings show draws "
                "pairs)"
            )

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Open the folder, once weights are those that generate."""
        self._rows = []
        on_rank_zero(trainer, lambda: self._open(trainer, pl_module))

    def _open(self, trainer: pl.Trainer, module: Any) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        noise = data.evaluated("predict") if getattr(data, "noise", None) is not None else None
        num = 0 if noise is None else len(noise)
        check_room(self.folder, num * SMALLEST, f"{num:,} images", "make fewer, or choose another folder")
        facts = {
            "noise": None if noise is None else noise.identity(),
            **_made_with(module),
            "precision": str(trainer.precision),
        }
        self._images = PictureFolder(self.folder, facts, num)
        if trainer.is_global_zero:
            self._lock.enter_context(locked_folder(self.folder, "ImageWriter", "choose another folder"))
        self._images.begin()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        prediction: tuple[Noise, Solution],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        noise, solution = prediction
        indices = noise.index.tolist()
        labels = noise.cond["label"].tolist() if "label" in noise.cond else [None] * len(indices)
        for index, image in zip(indices, pl_module.codec.decode(solution.x1).cpu(), strict=True):
            write_png(self.folder / name_of(index), image)
        self._rows += zip(indices, labels, strict=True)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the list of all ranks' images."""
        parts = gathered_objects(self._rows)
        if trainer.is_global_zero:
            rows = sorted(row for part in parts for row in part)
            if self._images is not None:
                self._images.finish(rows, class_names_of(pl_module.network))
        self._lock.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Let others write the folder."""
        self._lock.close()


def _made_with(module: Any) -> dict[str, Any]:
    """Return what decides about an image beside its noise; of a module without a solver its weights."""
    if not hasattr(module, "generation"):
        return {"weights": fingerprint(module.network)}
    return made_with(module.generation())
