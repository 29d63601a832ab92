"""Private names of Lightning: each exists in the version installed, and no file but one has any."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lightning
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from tiny import Affine, trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import SequentialLR

import flowlit
from flowlit._engine import lightning as engine
from flowlit.couplings import Independent
from flowlit.data import Digits
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow

HOME = Path(flowlit.__file__).parent
HOOKS = {"_parse_ckpt_path", "_instantiate_trainer"}
"""LightningCLI's, which no public ones replace; in ``commands/lightning.py``."""

REPLACED = {"_hpc_resume_path"}
"""What ``_engine/lightning.py`` puts in the place of Lightning's own."""

DEFINED = re.compile(
    r"self\.(_[a-z]\w*)\s*(?::[^=\n]+)?=|def (_[a-z]\w*)\(|^\s+(_[a-z]\w*)\s*[:=]", re.MULTILINE
)
OWNERS = re.compile(r"(trainer|loop|callback|connector|logger|fetcher|strategy|progress)\w*\._[a-z]")


def defined(*sources: str) -> set[str]:
    """The private names that sources define."""
    return {name for source in sources for match in DEFINED.findall(source) for name in match if name}


@cache
def of_lightning() -> set[str]:
    """The private names that Lightning defines, and neither flowlit nor PyTorch's modules and optimizers."""
    folder = Path(lightning.__file__).parent / "pytorch"
    foreign = (nn.Module, Optimizer, SequentialLR)
    names = defined(*(path.read_text() for path in folder.rglob("*.py")))
    names -= defined(*(path.read_text() for path in HOME.rglob("*.py")))
    return names - defined(*map(inspect.getsource, foreign))


def private_names(tree: ast.Module) -> Iterator[str]:
    """Private names that a file reads, sets or spells, and those that it imports from Lightning."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from {node.attr} & of_lightning() or re.findall(r"^_[A-Z]\w*__\w+$", node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from {node.value} & of_lightning()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
            imported = [*(node.module or "").split("."), *(name.name for name in node.names)]
            yield from (name for name in imported if name.startswith("_"))


def test_one_file_has_the_private_names_of_lightning():
    """An update of Lightning that renames something is then mended in one place."""
    seen = {}
    for path in HOME.rglob("*.py"):
        source = path.read_text()
        names = {*private_names(ast.parse(source)), *(match.group() for match in OWNERS.finditer(source))}
        seen |= {str(path.relative_to(HOME)): names - HOOKS} if names - HOOKS else {}
    assert seen.keys() == {"_engine/lightning.py"}, seen


def subclasses() -> list[type]:
    """The classes of flowlit that inherit from Lightning."""
    modules = [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages([str(HOME)], "flowlit.")
        if "__main__" not in m.name
    ]
    kinds = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    kinds = {kind for kind in kinds if kind.__module__.startswith("flowlit")}
    return sorted((kind for kind in kinds if lightning_bases(kind)), key=str)


def lightning_bases(kind: type) -> list[type]:
    """The classes of Lightning that a class inherits from."""
    return [base for base in kind.__mro__ if base.__module__.startswith("lightning")]


@pytest.mark.parametrize("kind", subclasses(), ids=lambda kind: kind.__name__)
def test_no_subclass_uses_what_it_inherits_privately(kind):
    inherited = defined(*map(inspect.getsource, lightning_bases(kind)))
    used = set(re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(kind))) | defined(inspect.getsource(kind))
    assert not (used & inherited) - HOOKS - REPLACED


def test_each_private_name_exists(tmp_path):
    """Names that Lightning renames or drops are found here, and not in the middle of a run."""
    made = trainer(tmp_path)
    assert engine.optimizer_steps(made) == engine.batches_seen(made) == engine.logged_step(made) == 0
    assert engine.is_accumulating(made) is False and engine.is_logging_step(made) is True
    assert engine.is_validation_pending(made) is False and engine.validates_by_clock(made) is False
    engine.mark_logged_values_stale(made)
    module = pl.LightningModule()
    assert engine.trainer_of(module) is None
    module.trainer = made
    assert engine.trainer_of(module) is made
    assert engine.is_built_from_configuration() is False
    assert inspect.ismethod(made.fit_loop.epoch_loop._should_check_val_fx)
    assert vars(_CheckpointConnector).keys() >= REPLACED


class Alternating(FlowModule):
    """A module of a user with two optimizers, of which the first one steps every third time."""

    automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(self.network.parameters(), lr=1e-3) for _ in range(2)]

    def training_step(self, pair, batch_idx):
        first, second = self.optimizers()
        self.manual_backward(self.objective(self.network, pair)["loss"])
        second.step()
        if batch_idx % 3 == 2:
            first.step()


def test_steps_are_the_updates_of_the_first_optimizer(tmp_path):
    """Lightning by itself adds up those of all."""
    module = Alternating(Affine(), RectifiedFlow())
    made = trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    data = FlowDataModule(Independent(Digits(labels=False)), batch_size=8)
    made.fit(module, datamodule=data)
    assert engine.optimizer_steps(made) == made.global_step == 1


def test_names_of_callbacks_loggers_and_strategies_exist(tmp_path):
    often = ModelCheckpoint(every_n_train_steps=7)
    made = trainer(tmp_path, callbacks=[often], enable_checkpointing=True)
    assert engine.checkpoint_folder(made, often) == tmp_path / "checkpoints"
    assert engine.steps_between_saves(often) == 7 and engine.time_between_saves(often) is None
    assert engine.steps_between_saves(ModelCheckpoint(every_n_epochs=1)) is None
    assert [engine.has_fixed_folder(CSVLogger(tmp_path, version=version)) for version in ("", None)] == [
        True,
        False,
    ]
    board = TensorBoardLogger(tmp_path, default_hp_metric=True)
    assert board._default_hp_metric
    engine.log_no_default_metric(board)
    assert not board._default_hp_metric
    strategy = ModelParallelStrategy(data_parallel_size=5, tensor_parallel_size=5)
    strategy.parallel_devices = [None, None]
    before = set(vars(strategy))
    engine.divide_among_all_devices(strategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (2, 1)
    assert set(vars(strategy)) == before
