"""All that flowlit reads and sets behind Lightning's public interface, under names that say what it is.

No other file has a name of Lightning's that begins with an underscore, but for two hooks of ``LightningCLI``
in ``commands/lightning.py``. ``tests/_engine/test_lightning.py`` asserts that, and that each of them exists.
The edits of saved loops, which need no such name, are in ``loops.py``.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loops.optimization.manual import _ManualOptimization
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from ..errors import FlowlitError


class NamedCheckpoints(_CheckpointConnector):
    """Restore no checkpoint that was not named.

    By itself, in SLURM jobs, Lightning takes a file ``hpc_ckpt_*.ckpt`` in the working folder, of any run.
    """

    _hpc_resume_path = None  # type: ignore[assignment]

    def restore_callbacks(self) -> None:
        try:
            super().restore_callbacks()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FlowlitError(
                f"checkpoint: a callback cannot go on from its state ({type(error).__name__}: {error}); use "
                "an older one, or leave the callback out"
            ) from error


def restore_only_named(trainer: pl.Trainer) -> None:
    """Keep Lightning from restoring, and from writing, checkpoints of SLURM jobs by itself.

    ``SaveOnSignal`` saves, and puts a job back into the queue.
    """
    trainer._checkpoint_connector = NamedCheckpoints(trainer)
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


class FirstOptimizerCounts(_ManualOptimization):
    """Let Lightning's steps be the updates of the first optimizer; those of the others do not count."""

    def on_run_start(self) -> None:
        super().on_run_start()
        for optimizer in self.trainer.strategy._lightning_optimizers[1:]:
            optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure


def count_first_optimizer(trainer: pl.Trainer) -> None:
    """Let ``trainer.global_step`` and ``max_steps`` count the updates of the first optimizer alone.

    By itself Lightning adds up the updates of all optimizers of a module with manual optimisation.
    """
    loop = trainer.fit_loop.epoch_loop
    if not isinstance(loop.manual_optimization, FirstOptimizerCounts):
        loop.manual_optimization = FirstOptimizerCounts(trainer)


def optimizer_steps(trainer: pl.Trainer) -> int:
    """Return the updates that the generator has had, which is what flowlit calls a step.

    β, averages, checkpoints, rollback, progress and snapshots count by it. With two networks in training it
    is the first optimizer's (``count_first_optimizer``).
    """
    return trainer.global_step


def global_batches(trainer: pl.Trainer) -> int:
    """Return the batches of ``data.batch_size`` that a step takes: 1, and 1 for each update of a critic."""
    return getattr(trainer.lightning_module, "global_batches", 1)


def batches_of_a_step(trainer: pl.Trainer) -> int:
    """Return the batches that a device takes for an optimizer step; after a fit those that it took."""
    taken: int = getattr(trainer.lightning_module, "took_batches", 0)
    return taken or trainer.accumulate_grad_batches


def accumulated_batches(trainer: pl.Trainer) -> int:
    """Return the batches that a device accumulates gradients over for one update of a network."""
    return batches_of_a_step(trainer) // global_batches(trainer)


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Return whether gradients still accumulate after this training batch, which then ends no step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def is_logging_step(trainer: pl.Trainer) -> bool:
    """Return whether the loggers get what a callback logs at the end of this training batch.

    That is after each ``trainer.log_every_n_steps`` optimizer steps.
    """
    return trainer._logger_connector.should_update_logs and not is_accumulating(trainer)


def logged_step(trainer: pl.Trainer) -> int:
    """Return the step under which Lightning logs what belongs to this training batch, from 0."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def mark_logged_values_stale(trainer: pl.Trainer) -> None:
    """Keep what an earlier step logged from being written once more.

    Lightning writes all that was ever logged when training is to stop.
    """
    for metric in trainer.fit_loop.epoch_loop._results.values():
        if metric.meta.on_step and not metric.meta.on_epoch:
            metric.has_reset = True


def batches_seen(trainer: pl.Trainer) -> int:
    """Return the batches that this device has trained on, over all epochs; those accumulated count each."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def is_validation_pending(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows the optimizer step that is just over."""
    loop = trainer.fit_loop.epoch_loop
    within_batch = loop.batch_progress.current.completed == loop.batch_progress.current.ready - 1
    fetcher = trainer.fit_loop._data_fetcher
    return (
        within_batch
        and not trainer.sanity_checking
        and fetcher is not None
        and bool(trainer.enable_validation and trainer.limit_val_batches)
        and loop._should_check_val_fx(fetcher)
    )


def validates_by_clock(trainer: pl.Trainer) -> bool:
    """Return whether ``trainer.val_check_interval`` is a time, and no number of batches."""
    return trainer._val_check_time_interval is not None  # type: ignore[attr-defined]


def checkpoint_folder(trainer: pl.Trainer, callback: ModelCheckpoint) -> Path:
    """Return the folder that a checkpoint callback writes into."""
    return Path(str(callback.dirpath or callback._ModelCheckpoint__resolve_ckpt_dir(trainer)))  # type: ignore[attr-defined]


def steps_between_saves(callback: ModelCheckpoint) -> int | None:
    """Return the optimizer steps between two saves; None if validations or a clock decide."""
    return callback._every_n_train_steps or None


def time_between_saves(callback: ModelCheckpoint) -> timedelta | None:
    """Return the time between two saves; None if validations or steps decide."""
    return callback._train_time_interval


def saves_at_epoch_end(callback: ModelCheckpoint) -> bool:
    """Return whether a checkpoint callback is set to save when an epoch ends, and not after validations."""
    return bool(callback._save_on_train_epoch_end)


def has_fixed_folder(logger: Logger) -> bool:
    """Return whether a logger has a version of its own, and so the same folder each time.

    Lightning's loggers count versions (``version_0``, ``version_1``, …) if they are given none.
    """
    return getattr(logger, "_version", "") is not None


def log_no_default_metric(logger: Logger) -> None:
    """Keep TensorBoard's logger from writing ``hp_metric`` = -1 beside the hyper-parameters."""
    if isinstance(logger, TensorBoardLogger):
        logger._default_hp_metric = False


def name_run(logger: Logger, name: str) -> None:
    """Name a run of Weights & Biases or MLflow that has no name yet."""
    if isinstance(logger, WandbLogger) and logger._wandb_init.get("name") is None:
        logger._wandb_init["name"] = name
    if isinstance(logger, MLFlowLogger) and logger._run_name is None:
        logger._run_name = name


def trainer_of(module: pl.LightningModule) -> pl.Trainer | None:
    """Return the trainer that a module is attached to, if there is one."""
    return module._trainer


def is_built_from_configuration() -> bool:
    """Return whether the command line builds a module now, whose configuration is then plain data."""
    return _given_hyperparameters.get() is not None


def divide_among_all_devices(strategy: ModelParallelStrategy) -> None:
    """Let every device of every node compute rows of its own: data parallel, and not tensor parallel."""
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes
    strategy._tensor_parallel_size = 1


def spawns(trainer: pl.Trainer) -> bool:
    """Return whether the processes of a trainer begin from a pickle of it."""
    return getattr(trainer.strategy, "_start_method", None) in ("spawn", "forkserver")


def awaits_no_one(trainer: pl.Trainer) -> bool:
    """Return whether a trainer would wait for other nodes, on which nothing starts its processes."""
    environment = trainer._accelerator_connector.cluster_environment
    by_hand = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"} & os.environ.keys()
    return trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and not by_hand
