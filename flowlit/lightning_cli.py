"""LightningCLI, with the house's manners: the command line always wins, and runs keep their configuration."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from . import callbacks, couplings, modules, networks, objectives, solvers  # noqa: F401 - short class names resolve
from .datamodule import FlowDataModule  # noqa: F401
from .trainer import FlowTrainer


class SaveConfig(SaveConfigCallback):
    """Save the resolved configuration beside the logs: config.yaml for fit, config_<command>.yaml otherwise."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.logger is None:
            return
        self.config_filename = "config.yaml" if stage == "fit" else f"config_{stage}.yaml"
        super().setup(trainer, pl_module, stage)


class FlowCLI(LightningCLI):
    """fit | validate | test | predict | couple."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**LightningCLI.subcommands(), "couple": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--vars", type=dict[str, Any], default={}, help="Free variables for ${vars.name} in the YAML.")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: what a checkpoint remembers must not beat the command line."""

    @classmethod
    def run(cls, argv: list[str]) -> FlowCLI:
        """Parse the arguments and run the command that they name."""
        quiet()
        return cls(
            pl.LightningModule,
            pl.LightningDataModule,
            trainer_class=FlowTrainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"parser_mode": "omegaconf+"},
            args=argv,
        )


def quiet() -> None:
    """Silence advice that does not apply: workers are not needed for data in memory, and no tips from Lightning."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter is intended.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", ".*ended before the epoch ended and your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode at the start of training.*")  # the average, always
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip: For seamless" not in record.getMessage())
