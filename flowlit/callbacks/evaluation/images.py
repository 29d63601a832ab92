"""Generated images as files, and what they were made with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import msgspec
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from ..._engine.ranks import gathered_objects, on_rank_zero
from ..._support.files import check_room, short_hash, write_atomically
from ..._support.locks import locked_folder
from ..._support.nested import flatten
from ..._support.schema import Count, Format
from ..._version import __version__
from ...data.classes import class_names_of
from ...errors import FlowlitError
from ...networks.checkpoints.fingerprint import fingerprint
from ...ranges import Checked
from ...types import Noise, Solution

RECORD = "images.json"
LIST = "images.csv"
SMALLEST = 67
"""Bytes of a PNG at least."""


class Record(msgspec.Struct):
    """Facts that decide about every one of the images in a folder, and their number."""

    facts: dict[str, Any]
    images: Count
    complete: bool


FORMAT = Format(Record, "record of generated images", "choose another folder, or remove it", "flowlit-images")


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
        self._record: dict[str, Any] = {}
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
            **made_with(module),
            "precision": str(trainer.precision),
        }
        record = {"format": FORMAT.name, "version": 1, "flowlit": __version__, "facts": facts, "images": num}
        self._record = json.loads(json.dumps(record, default=str))
        if trainer.is_global_zero:
            self._lock.enter_context(locked_folder(self.folder, "ImageWriter", "choose another folder"))
        check_same_images(self.folder, self._record)
        for left in self.folder.glob(".*.png.*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)
        self._write_record(complete=False)

    def _write_record(self, complete: bool) -> None:
        content = json.dumps({**self._record, "complete": complete}, indent=1)
        write_atomically(self.folder / RECORD, content.encode())

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
            table = listed(rows, class_names_of(pl_module.network))
            write_atomically(self.folder / LIST, table.encode())
            self._write_record(complete=True)
        self._lock.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Let others write the folder."""
        self._lock.close()


def name_of(index: int) -> str:
    """Return the name of the file of an image."""
    return f"{index:08d}.png"


def write_png(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) uint8, whole or not at all.

    Raises:
        FlowlitError: unless it is grey or RGB.
    """
    if len(image) not in (1, 3):
        raise FlowlitError(
            f"the codec decodes images of {len(image)} channels; ImageWriter writes grey or RGB, 1 or 3"
        )
    write_atomically(path, lambda file: to_pil_image(image).save(file, "PNG"), lasting=False)


def made_with(module: Any) -> dict[str, Any]:
    """Return what decides about an image beside its noise: weights, structure, solver and codec."""
    if not hasattr(module, "generation"):
        return {"weights": fingerprint(module.network)}
    facts = module.generation()
    built = {key: value for key, value in facts["network"].items() if key != "weights"}
    return {
        "weights": facts["network"]["weights"],
        "network": short_hash(json.dumps(built, sort_keys=True, default=str)),
        "solver": next(iter(facts["solvers"].values())),
        "codec": facts["codec"],
        "rounding": facts["rounding"],
    }


def check_same_images(folder: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder that holds images of another run.

    Raises:
        FlowlitError: naming what differs.
    """
    mend = "choose another folder, or remove it"
    path = folder / RECORD
    if not path.exists():
        images = sum(1 for _ in folder.glob("*.png"))
        if images:
            raise FlowlitError(
                f"{folder} holds {images:,} images already, and no {RECORD} that says how they were made; "
                f"{mend}"
            )
        return
    record = FORMAT.read(path)
    known = flatten(record["facts"])
    now = flatten(wanted["facts"])
    different = [
        f"{key}: {known.get(key, 'none')!s:.40} there, {now.get(key, 'none')!s:.40} now"
        for key in dict.fromkeys((*now, *known))
        if known.get(key) != now.get(key)
    ]
    if record["images"] > wanted["images"]:
        different.append(f"{record['images']:,} images there, {wanted['images']:,} now")
    if different:
        more = f"; {len(different) - 3} more" if len(different) > 3 else ""
        raise FlowlitError(f"{folder} holds images of another run ({'; '.join(different[:3])}{more}); {mend}")


def listed(rows: Sequence[tuple[int, int | None]], names: Sequence[str] | None) -> str:
    """Return a table of images as CSV, from their indices and classes.

    >>> print(listed([(0, 1)], ["cat", "dog"]).strip())
    file,index,class,name
    00000000.png,0,1,dog
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "index", "class", "name"])
    for index, label in rows:
        name = names[label] if names is not None and label is not None and label < len(names) else ""
        writer.writerow([name_of(index), index, "" if label is None else label, name])
    return text.getvalue()
