"""One writer at a time in the folders of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ..._engine.lightning import checkpoint_folder
from ..._engine.ranks import on_rank_zero
from ..._support.locks import locked_folder
from .limits import check_nodes

Options = ParamSpec("Options")
Result = TypeVar("Result")
AnyTrainer = TypeVar("AnyTrainer", bound=pl.Trainer)


def one_writer(
    method: Callable[Concatenate[AnyTrainer, Options], Result], summary: str = ""
) -> Callable[Concatenate[AnyTrainer, Options], Result]:
    """Have a ``OneWriter`` hold its folders while it runs a command.

    ``summary`` is the first line of the command's help, if it is not the method's own.
    """

    @wraps(method)
    def run(self: AnyTrainer, *args: Options.args, **options: Options.kwargs) -> Result:
        trainer = cast(OneWriter, self)
        try:
            trainer.occupy(trainer.command or method.__name__)
            return method(self, *args, **options)
        finally:
            trainer.leave()

    if summary:
        run.__doc__ = f"{summary}\n\n{inspect.getdoc(method)}"
    return run


class OneWriter(pl.Trainer):
    """A trainer that holds the folders it writes. Commands that write other files there do not exclude each
    other: ``validate`` may look at the checkpoints of a running ``fit``.
    """

    moved: list[tuple[Path, Path]] = []
    """Old and new places of files of an earlier run, which a fit has put aside."""

    _locks: ExitStack | None = None
    command: str | None

    validate = one_writer(pl.Trainer.validate, "Generate images with each solver, and measure them.")
    test = one_writer(pl.Trainer.test, "Generate and measure as many images as one publishes, 50,000.")
    predict = one_writer(pl.Trainer.predict, "Generate images, and write them as files.")

    def occupy(self, command: str) -> None:
        """Hold the folders of a command on rank 0, until ``leave``.

        Raises:
            FlowlitError: on every rank, if another process writes there, or other nodes are awaited in vain.
        """
        check_nodes(self)
        if self._locks is None:
            self._locks = ExitStack()
            folders = list(written(self, command))
            on_rank_zero(self, lambda: self._hold(folders, command))

    def _hold(self, folders: list[Path], command: str) -> None:
        assert self._locks is not None
        if self.is_global_zero:  # also before the processes are connected
            for folder in folders:
                self._locks.enter_context(locked_folder(folder, command, "choose another (--vars.root)"))

    def leave(self) -> None:
        """Let others write."""
        if self._locks is not None:
            self._locks.close()
            self._locks = None


def written(trainer: pl.Trainer, command: str) -> Iterator[Path]:
    """Yield the folders that a command writes, without those inside another one."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    loggers = [logger for logger in trainer.loggers if isinstance(logger, (TensorBoardLogger, CSVLogger))]
    places = [Path(logger.log_dir) for logger in loggers]
    known = len(loggers) == len(trainer.loggers)  # others give a run its folder later
    for callback in trainer.checkpoint_callbacks if command == "fit" else []:
        if isinstance(callback, ModelCheckpoint) and (known or callback.dirpath):
            places.append(checkpoint_folder(trainer, callback))
    local = {place.resolve() for place in places if ":/" not in str(place)}
    yield from (place for place in sorted(local) if not local & set(place.parents))
