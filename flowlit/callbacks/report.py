"""Keep the numbers of a validation or test run in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from .. import __version__
from ..files import write_atomically
from ..metrics.cost import count_parameters
from ..networks.pretrained import fingerprint


class Report(Callback):
    """Write ``metrics.json`` into the run's folder at the end of ``flowlit validate`` or ``test``.

    It holds every logged number, the parameters of the network, the solvers, and the versions and device they were measured with.
    """

    def _write(self, trainer: pl.Trainer, pl_module: Any) -> None:
        folder = trainer.log_dir  # asked on every rank: it is broadcast
        if trainer.state.fn == "fit" or not trainer.is_global_zero or folder is None:
            return
        report = {
            "metrics": {name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            "params": count_parameters(pl_module.network),
            "solvers": {name: repr(solver) for name, solver in getattr(pl_module, "solvers", {}).items()},
            "weights": "ema" if getattr(pl_module, "ema_updates", 0) else "network",
            "network": dict(pl_module.hparams).get("network"),
            "sha256": fingerprint(pl_module.velocity() if hasattr(pl_module, "velocity") else pl_module.network),
            "device": torch.cuda.get_device_name()
            if pl_module.device.type == "cuda"
            else f"cpu, {torch.get_num_threads()} threads",
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
            "flowlit": __version__,
            "torch": torch.__version__,
        }
        write_atomically(Path(folder) / "metrics.json", json.dumps(report, indent=1, default=str).encode())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, pl_module)

    on_test_end = on_validation_end
