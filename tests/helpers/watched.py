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


class Scores(Callback):
    """Logs the number that is given for the step of a validation."""

    def __init__(self, values: dict[str, float], name: str = "quality/euler2"):
        self.values, self.name = values, name

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            pl_module.log(self.name, float(self.values[str(trainer.global_step)]))
