"""A run whose learning rates are written down."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Rates(Callback):
    """Writes the learning rate of every step to a file, step by step."""

    def __init__(self, path: str):
        self.path = path

    def on_train_batch_start(self, trainer, *_):
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step} {trainer.optimizers[0].param_groups[0]['lr']!r}\n")


def rates(path: Path | str) -> dict[int, float]:
    """What was written, by step; a step that was taken twice had one rate."""
    found: dict[int, float] = {}
    for line in Path(path).read_text().splitlines():
        step, rate = line.split()
        assert found.setdefault(int(step), float(rate)) == float(rate), line
    return found
