"""The parser of the commands that Lightning runs, and what it builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import jsonargparse
import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser

from ...errors import FlowlitError
from ...modules import FlowDataModule
from ...modules.base import CheckpointedModule
from .hollow import unread
from .parsing import usage_error
from .words import named_options

EPILOG = """\
--trust: have doctor and --print_config build classes of other packages, too (read the YAML first, it runs
code). FLOWLIT_TRACEBACK=1 shows where an error came from."""


class Parser(LightningArgumentParser):
    """A parser without abbreviations, whose errors take two lines: what is wrong, and where options are.

    Args:
        command: that is parsed.
        contents: of its YAMLs, whose options a misspelt one may be meant for.
    """

    def __init__(
        self, *arguments: Any, command: str = "", contents: Sequence[dict[str, Any]] = (), **named: Any
    ):
        super().__init__(*arguments, allow_abbrev=False, **named)
        self.command = command
        self.contents = contents

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        if not self.exit_on_error:
            raise jsonargparse.ArgumentError(None, message) from ex
        parser = getattr(ex, "subcommand_parser", None) or self
        known = [*parser._option_string_actions, *named_options(self.contents)]
        self.exit(2, usage_error(f"flowlit {self.command}", message, known))

    def check_read(self, config: jsonargparse.Namespace) -> None:
        """Refuse names in the YAMLs that the configuration, of a command or of all, does not have."""
        values = config.as_dict()
        if problem := unread(self.contents, values.get(self.command, values)):
            self.error(problem)

    def dump(self, cfg: jsonargparse.Namespace, *arguments: Any, **named: Any) -> str:
        """Return a configuration as a YAML, for ``--print_config`` and for a run's record."""
        self.check_read(cfg)
        return super().dump(cfg, *arguments, **named)


def check_parts(model: pl.LightningModule, data: pl.LightningDataModule | None) -> None:
    """Refuse modules of Lightning that train no network of flowlit, or give no pairs.

    Raises:
        FlowlitError: naming what was built, and what is expected.
    """
    for key, part, base in (("model", model, CheckpointedModule), ("data", data, FlowDataModule)):
        if part is None or isinstance(part, base):
            continue
        name = type(part).__name__
        if type(part) in (pl.LightningModule, pl.LightningDataModule):
            name = "no class_path"
        raise FlowlitError(
            f"{key}: found {name}, expected a class_path of `flowlit list modules`, or a class of yours that "
            "extends one"
        )
