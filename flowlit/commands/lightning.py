"""Commands that Lightning runs: the command line always wins, and runs keep their configuration."""

from __future__ import annotations

import sys
from typing import Any, Literal, cast

import jsonargparse
import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from omegaconf.errors import OmegaConfBaseException

from .. import data, modules, objectives, solvers  # noqa: F401 - short class names resolve
from ..callbacks.evaluation.base import command_of
from ..couplings import cached, independent, mixed, simulated, transport  # noqa: F401 - likewise
from ..data import codecs, folders, images, zips  # noqa: F401 - likewise
from ..errors import FlowlitError
from ..networks import critics, dit  # noqa: F401 - likewise
from ._line.added import complete
from ._line.advice import quiet
from ._line.earlier import put_aside
from ._line.items import with_items, with_vars
from ._line.limits import check_seed
from ._line.parser import EPILOG, Parser, check_parts
from ._line.references import leads_nowhere, with_values
from ._line.resume import (
    BY_NAME,
    check_fixed_folder,
    check_named,
    checkpoint_to_resume,
    look_up,
)
from ._line.untrained import check_trained, check_weight_options
from ._line.words import (
    Variables,
    check_numbers,
    check_vars,
    check_words,
    named_files,
    read_configs,
    with_text_root,
)
from ._yaml.older import MODE, renew_names
from ._yaml.trust import only_packages, trusted, without_trust
from .trainer import FlowTrainer


def main(argv: list[str], command_line: type[LightningCLI] | None = None) -> int:
    """Parse and run a command that Lightning runs, by ``FlowCLI`` or another; return its exit code."""
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    try:
        cast(type[FlowCLI], command_line or FlowCLI).run(argv)
    except OmegaConfBaseException as error:
        reason = leads_nowhere(str(error), argv)
        print(f"flowlit: error: interpolation in the configuration: {reason}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


class SaveConfig(SaveConfigCallback):
    """Save the resolved configuration beside the logs: config.yaml for fit, config_<command>.yaml otherwise.

    Not before work begins: a run that is refused must not overwrite the record of the one before it.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pass

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.logger is not None:
            command = command_of(trainer)
            self.config_filename = "config.yaml" if command == "fit" else f"config_{command}.yaml"
            super().setup(trainer, pl_module, command)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, pl_module)

    on_validation_start = on_test_start = on_predict_start = on_train_start


class FlowCLI(LightningCLI):
    """fit | validate | test | predict | couple | doctor | sweep.

    Args:
        arguments: of ``LightningCLI``.
        command: that is run; the others get no parser, each of which takes time.
        named: of ``LightningCLI``.
    """

    def __init__(self, *arguments: Any, command: str, **named: Any):
        self.command = command
        super().__init__(*arguments, **named)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override] # static in Lightning
        own = {"model", "datamodule"}
        every = {**LightningCLI.subcommands(), "couple": own, "doctor": own, "sweep": own}
        return {self.command: every[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.epilog = EPILOG
        parser.add_argument(
            "--vars", type=Variables, default={}, help="Free variables for ${vars.name} in the YAML."
        )
        parser.add_argument(
            "--resume",
            type=Literal["auto"] | None,
            default=None,
            help="fit: 'auto' goes on from the run's newest good checkpoint, or begins if there is none.",
        )
        parser.add_argument(
            "--untrained",
            type=bool,
            default=False,
            help="validate, test, predict, couple, sweep: generate with fresh weights, too.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; refuse unknown names, numbers that are read otherwise than they were typed, bad seeds."""
        super().parse_arguments(parser, args)
        cast(Parser, parser).check_read(self.config)
        config = self.config[self.config["subcommand"]]
        check_numbers(args, config.as_dict())
        check_seed(config.seed_everything)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: what a checkpoint contains must not beat the command line."""

    def before_instantiate_classes(self) -> None:
        """Read --ckpt_path before any work begins, so that a missing or torn file is one clear error.

        Checkpoints are read as plain data unless ``--weights_only false`` says that their pickled code may
        run.
        """
        config = self.config[self.subcommand]
        if config.get("weights_only") is None:
            config["weights_only"] = True
        reports = "callbacks.Report" in str(config["trainer"].get("callbacks"))
        if reports and self.subcommand in ("validate", "test"):
            config["verbose"] = False  # Report prints a table of its own
        path = config.get("ckpt_path")
        if path is None:
            return
        if self.subcommand == "fit" and config.get("resume"):
            raise FlowlitError(
                f"--resume auto looks for a checkpoint, --ckpt_path names {path}; give one of the two"
            )
        config["ckpt_path"] = check_named(str(path), self.subcommand == "fit", config["weights_only"])

    def before_fit(self) -> None:
        """Resolve ``--resume auto`` to a checkpoint, once no other run writes any there."""
        trainer = cast(FlowTrainer, self.trainer)
        config = self.config_init[self.subcommand]
        if config.get("resume"):
            check_fixed_folder(trainer)
        try:
            trainer.occupy("fit")
            if config.get("resume"):
                config["ckpt_path"] = checkpoint_to_resume(trainer)
            else:
                self.look_up_checkpoint()
                trainer.moved = put_aside(trainer, config.get("ckpt_path"), self.config[self.subcommand])
        except BaseException:
            trainer.leave()
            raise

    def after_instantiate_classes(self) -> None:
        check_parts(self.model, self.datamodule)

    def look_up_checkpoint(self) -> None:
        """Resolve ``--ckpt_path last`` and ``best`` to a checkpoint."""
        config = self.config_init[self.subcommand]
        if config.get("ckpt_path") in BY_NAME:
            config["ckpt_path"] = look_up(self.trainer, config["ckpt_path"], self.subcommand == "fit")

    def before_doctor(self) -> None:
        self.look_up_checkpoint()
        cast(FlowTrainer, self.trainer).untrained = self.config_init[self.subcommand].untrained

    def before_generation(self) -> None:
        """Resolve ``--ckpt_path``, and refuse fresh weights."""
        self.look_up_checkpoint()
        check_trained(self.trainer, self.model, str(self.subcommand), self.config_init[self.subcommand])

    before_validate = before_test = before_predict = before_couple = before_sweep = before_generation

    def _instantiate_trainer(self, config: dict[str, Any], extra: list[Callback]) -> pl.Trainer:
        added = complete(config, trains=self.subcommand in ("fit", "doctor"))
        return super()._instantiate_trainer(config, [*extra, *added])

    @classmethod
    def run(cls, argv: list[str]) -> FlowCLI:
        """Parse the arguments and run the command that they name."""
        quiet()
        renew_names()
        looks = argv[0] == "doctor" or any(word.startswith("--print_config") for word in argv)
        words, trust = without_trust(argv, looks)
        check_words(words)
        contents = read_configs(words)
        if words == words[:1]:
            raise FlowlitError(f"required: {words[0]}.data, {words[0]}.model; give -c CONFIG, or see --help")
        check_vars(words, contents)
        check_weight_options(words)
        words = with_values(words, contents)
        known = {"command": words[0], "contents": contents}
        with only_packages(looks and not trust and not trusted(named_files(words))):
            return cls(
                pl.LightningModule,
                pl.LightningDataModule,
                command=words[0],
                trainer_class=FlowTrainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                save_config_callback=SaveConfig,
                save_config_kwargs={"overwrite": True},
                parser_class=Parser,
                parser_kwargs={"parser_mode": MODE, "prog": "flowlit", **known, words[0]: known},
                args=with_text_root(with_vars(with_items(words, contents), contents)),
            )
