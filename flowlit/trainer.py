"""Lightning's Trainer with the verbs of the house."""

from __future__ import annotations

import lightning.pytorch as pl

from .callbacks.pairs import Dtype, PairWriter
from .couplings.noise import SeededNoise
from .couplings.store import Store
from .datamodule import FlowDataModule, ShardData
from .modules.base import FlowModule
from .networks.pretrained import read_checkpoint
from .types import FlowlitError


class FlowTrainer(pl.Trainer):
    """Lightning's Trainer, and ``couple``."""

    def couple(
        self,
        model: FlowModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        store: str = "data/couplings/pairs",
        num: int = 10_000,
        seed: int = 1,
        shard_size: int = 1000,
        batch_size: int = 500,
        dtype: Dtype = "float32",
    ) -> None:
        """Make couplings: integrate the model from seeded noise with its first solver, and store the pairs.

        Goes on where an interrupted run stopped; the files have the same bytes for any number of processes.

        Args:
            model: whose velocity makes the pairs.
            datamodule: its ``noise`` gives shape and number of classes.
            ckpt_path: load the model's weights from this run's checkpoint.
            weights_only: taken so that the config.yaml of a fit serves here too; checkpoints are always read as plain data.
            store: folder for shards and manifest.
            num: pairs in all.
            seed: of their noise; differs from that of every other store and of evaluation.
            shard_size: pairs per file.
            batch_size: pairs solved at a time.
            dtype: of the images on disk.
        """
        if weights_only is False:
            raise FlowlitError("couple reads checkpoints as plain data only; drop --weights_only false")
        template = getattr(datamodule, "noise", None)
        if not isinstance(datamodule, FlowDataModule) or template is None:
            raise FlowlitError("couple needs the shape of the noise: give data.noise (shape, num_classes)")
        noise = SeededNoise(template.shape, num, seed, template.num_classes)
        if ckpt_path is not None:  # before the writer notes whose pairs these are
            content = read_checkpoint(ckpt_path)
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
        model.check_noise(noise)
        folder = Store(store)
        self.callbacks.append(PairWriter(folder, noise, shard_size, dtype))  # type: ignore[attr-defined]
        shards = ShardData(noise, folder, shard_size, batch_size)
        self.predict(model, datamodule=shards, return_predictions=False)
