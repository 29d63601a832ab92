"""Numbers beyond their ranges: arguments of classes, velocities, optimizers, and options of commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tiny
import torch
from commandline import in_process
from torch.optim import lr_scheduler

from flowlit import callbacks, couplings, data, metrics, modules, objectives, paths, schedules, solvers
from flowlit.commands.couple import CoupleOptions
from flowlit.commands.trainer import FlowTrainer
from flowlit.modules.optimizers import optimizer_of
from flowlit.networks import ADM, EDM, DiT, EmpiricalFlow, SmallClassifier, UNet
from flowlit.objectives import distances, times, weights
from flowlit.schedules import averages
from flowlit.solvers import grids
from flowlit.types import Pair

from .row import Row

WHOLE = (0, -1, 2.5, "3", True, None, math.nan, 2**70)
REAL = (0, -1, math.nan, math.inf, "3", True, None, 10**400)


def _made(kind: Callable[..., Any], **arguments: Any) -> Callable[[Path], Any]:
    return lambda folder: kind(**arguments)


def _rows(kind: Any, name: str, values: tuple[Any, ...], words: tuple[str, ...], **others: Any) -> list[Row]:
    """Rows that build an object with one argument beyond its range."""
    named = getattr(kind, "func", kind)
    label = f"{named.__module__}.{named.__qualname__}".removeprefix("flowlit.")
    return [
        Row(
            f"{label}: {name} = {value!r:.20}", _made(kind, **{name: value}, **others), (f"{name} is", *words)
        )
        for value in values
    ]


COUNTS: list[tuple[Any, str, dict[str, Any]]] = [
    (solvers.Euler, "steps", {}),
    (solvers.RK2, "steps", {}),
    (solvers.Adams, "steps", {}),
    (solvers.EDMHeun, "steps", {}),
    (solvers.UniPC, "steps", {}),
    (solvers.SinglestepDPMSolver, "evaluations", {}),
    (times.Grid, "k", {}),
    (schedules.Linear, "steps", {}),
    (schedules.Cosine, "steps", {}),
    (averages.HalfLife, "images", {}),
    (callbacks.Samples, "num", {}),
    (callbacks.Samples, "columns", {}),
    (callbacks.Straightness, "steps", {}),
    (callbacks.Throughput, "repeats", {}),
    (callbacks.LastCheckpoint, "every_n_train_steps", {}),
    (callbacks.EMA, "every", {}),
    (callbacks.Rollback, "window", {}),
    (callbacks.CUDAGraphs, "most", {}),
    (metrics.KID, "subsets", {}),
    (couplings.SeededNoise, "num", {"shape": (1, 8, 8)}),
    (modules.FlowDataModule, "batch_size", {}),
    (modules.FlowDataModule, "test_num", {}),
    (modules.Critic, "updates", {"network": tiny.Affine()}),
    (CoupleOptions, "num", {}),
    (CoupleOptions, "shard_size", {}),
    (UNet, "width", {}),
    (ADM, "blocks", {}),
    (DiT, "depth", {}),
    (SmallClassifier, "dim", {}),
    (objectives.KStepDistillation, "k", {}),
    (paths.DiscreteVP, "steps", {}),
]

POSITIVE: list[tuple[Any, str, dict[str, Any]]] = [
    (solvers.Euler, "rho", {}),
    (solvers.EDMHeun, "sigma_max", {}),
    (grids.Power, "rho", {}),
    (grids.Shifted, "shift", {}),
    (grids.LogSNR, "margin", {}),
    (schedules.Exponential, "scale", {}),
    (times.UShaped, "a", {}),
    (weights.Karras, "sigma_data", {}),
    (weights.InverseSNR, "eps", {}),
    (distances.PseudoHuber, "c", {}),
    (EmpiricalFlow, "eps", {"images": torch.zeros(2, 1, 8, 8)}),
    (partial(EDM, tiny.Affine()), "sigma_data", {}),
    (UNet, "time_scale", {}),
    (paths.VE, "sigma_min", {}),
]

ROWS = [
    row
    for kind, name, others in COUNTS
    for row in _rows(kind, name, WHOLE, ("whole number", "> 0"), **others)
]
ROWS += [
    row
    for kind, name, others in POSITIVE
    for row in _rows(kind, name, REAL, ("finite number", "> 0"), **others)
]

ROWS += [
    row
    for kind, name, values, words in [
        (solvers.RK45, "rtol", (-1, math.nan, math.inf, "1e-3"), (">= 0",)),
        (solvers.RK45, "atol", (-1, math.nan, math.inf, None), (">= 0",)),
        (partial(solvers.SDE, 4), "sigma", (-1, math.nan, math.inf), (">= 0",)),
        (partial(solvers.RK2, 4), "r", (0, -1, 1.5, math.nan), ("in (0, 1]",)),
        (partial(solvers.Adams, 4), "order", (0, 1, 4, "2", 2.5, True), ("2 or 3",)),
        (times.Fixed, "t", (7, -0.1, math.nan, "0"), ("in [0, 1]",)),
        (times.Uniform, "low", (-1, 2, math.nan), ("in [0, 1]",)),
        (times.LogitNormal, "std", (-1, math.nan, math.inf), (">= 0",)),
        (averages.PowerLaw, "std", (0, -1, 0.2887, math.nan, "3", None), ("above 0 and below 0.2887",)),
        (averages.Constant, "decay", (2, 1, -0.1, math.nan), ("in [0, 1)",)),
        (callbacks.EMA, "decay", (2, 1, -0.1, math.nan), ("in [0, 1)", "none")),
        (callbacks.Gradients, "clip", (-1, 0, math.nan, math.inf), ("> 0", "none")),
        (callbacks.Rollback, "factor", (0, 2, math.nan), ("in (0, 1]",)),
        (UNet, "dropout", (2, -0.1, math.nan), ("in [0, 1]",)),
        (UNet, "multipliers", ([1, 0], 2, "12", [1, 2.5], None), ("several", "> 0")),
        (UNet, "num_classes", (-1, 2.5, "3", None), (">= 0",)),
        (UNet, "early_label", (1, "false", None), ("true or false",)),
        (objectives.AnnealedReflow, "beta", (2, -1, math.nan), ("in [0, 1]",)),
        (modules.FlowDataModule, "num_workers", (-1, 2.5, None), (">= 0",)),
        (modules.FlowDataModule, "seed", (-1, 2**64, "a", 1.0), ("2**64",)),
        (modules.FlowDataModule, "device_batch_size", (0, -1, 2.5), ("> 0", "none")),
        (CoupleOptions, "seed", (-1, 2**64, 1.5), ("2**64",)),
        (callbacks.MatmulPrecision, "precision", ("exact", 32, None), ("'highest'",)),
        (callbacks.Gradients, "nonfinite", ("ignore", None), ("'repair' or 'skip'",)),
        (data.Digits, "part", ("validation", None), ("'train'",)),
        (data.Digits, "limit", (0, -1, 2.5), ("> 0",)),
        (partial(data.ImageFolder, "x"), "channels", (0, 2, 4, "3"), ("1 or 3",)),
    ]
    for row in _rows(kind, name, values, words)
]


def _returning(value: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda x, t, cond={}: value(x)


X = torch.ones(3, 1, 8, 8)

SHAPES: list[tuple[str, Callable[[torch.Tensor], Any], tuple[str, ...]]] = [
    ("one number a sample", lambda x: x[:, :1, :1, :1], ("(3, 1, 1, 1) of float32", "(3, 1, 8, 8)")),
    ("one image for all", lambda x: x[:1], ("(1, 1, 8, 8)", "shape of x")),
    ("a number", lambda x: x.sum(), ("() of float32",)),
    ("more channels", lambda x: x.repeat(1, 3, 1, 1), ("(3, 3, 8, 8)",)),
    ("transposed", lambda x: x.transpose(0, 1), ("(1, 3, 8, 8)",)),
    ("whole numbers", lambda x: x.long(), ("of int64", "real numbers")),
    ("truth", lambda x: x > 0, ("of bool",)),
    ("complex numbers", lambda x: x + 0j, ("of complex64",)),
    ("a tuple", lambda x: (x, x), ("a tuple",)),
    ("NumPy", lambda x: x.numpy(), ("a ndarray",)),
    ("nothing", lambda x: None, ("a NoneType",)),
]

SOLVERS = [
    solvers.Euler(2),
    solvers.Heun(2),
    solvers.RK4(2),
    solvers.RK45(),
    solvers.Adams(3),
    solvers.SDE(2),
    solvers.ReNoise(2),
    solvers.EDMHeun(3),
]

ROWS += [
    Row(
        f"{solver}: a velocity that returns {name}",
        lambda folder, solver=solver, value=value: solver(_returning(value), X),
        ("the velocity", "returned", *words),
    )
    for solver in SOLVERS
    for name, value, words in SHAPES
]
ROWS += [
    Row(
        f"{solver}: a velocity of {bad}",
        lambda folder, solver=solver, bad=bad: solver(_returning(lambda x: torch.where(x > 1, x, bad)), X),
        ("not finite",),
    )
    for solver in SOLVERS
    for bad in (math.nan, math.inf, -math.inf)
]
ROWS += [
    Row(
        f"{type(objective).__name__}: a network that returns {name}",
        lambda folder, objective=objective, value=value: objective(_returning(value), Pair(X, X)),
        ("the velocity", "returned", *words),
    )
    for objective in (
        objectives.RectifiedFlow(),
        objectives.AnnealedReflow(beta=0.5),
        objectives.Distillation(),
        objectives.EDMLoss(),
        objectives.LPIPSHuber(perceptual=distances.SquaredError()),
    )
    for name, value, words in SHAPES[:6]
]

TOGETHER: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: times.Uniform(0.8, 0.2), ("low <= high", "low=0.8")),
    (lambda: times.UShaped(clamp=0.6), ("clamp < 0.5",)),
    (lambda: times.UShaped(a=1000.0), ("a <= 80",)),
    (lambda: solvers.RK45(0, 0), ("rtol and atol are 0",)),
    (lambda: solvers.EDMHeun(4, sigma_min=9.0, sigma_max=1.0), ("sigma_min <= sigma_max",)),
    (lambda: paths.VE(9.0, 1.0), ("sigma_min < sigma_max",)),
    (lambda: paths.DiscreteVP(1), ("steps > 1",)),
    (lambda: paths.ContinuousVP(eps=2.0), ("eps < 1",)),
    (lambda: schedules.Piecewise([(0, math.nan)]), ("points is", "finite number")),
    (lambda: schedules.Piecewise([(0.5, 1.0)]), ("points is", "whole number")),
    (lambda: schedules.Piecewise([(0,)]), ("points is",)),
    (lambda: schedules.Piecewise([]), ("increasing steps",)),
    (lambda: callbacks.Rollback(spike=0.5), ("spike is 0.5", "more than 1")),
    (lambda: objectives.Combined({}), ("objectives is empty",)),
    (lambda: objectives.Combined({"a.b": objectives.Distillation()}), ("objectives is", "letters")),
    (lambda: objectives.Combined({"a": objectives.Distillation()}, {"a": math.nan}), ("weights is",)),
    (lambda: distances.WeightedSum([]), ("distances is empty",)),
    (lambda: distances.WeightedSum([distances.SquaredError()], [math.inf]), ("weights is",)),
    (lambda: couplings.Mixed([couplings.Cached("x")], [0.0]), ("shares is", "> 0")),
    (lambda: couplings.SeededNoise((1, -8, 8), 4), ("shape is", "> 0")),
    (lambda: couplings.SeededNoise("188", 4), ("shape is",)),
    (lambda: UNet(8, 1, 8, []), ("multipliers is empty",)),
    (lambda: DiT(8, 1, mlp_ratio=1e-9), ("mlp_ratio",)),
]
ROWS += [
    Row(f"together: {words[0]}, {number}", lambda folder, make=make: make(), words)
    for number, (make, words) in enumerate(TOGETHER)
]


def _module(names: Any = ("euler1",), **arguments: Any) -> modules.FlowModule:
    named = {name: solvers.Euler(1) for name in names}
    return modules.FlowModule(tiny.Affine(), objectives.RectifiedFlow(), solvers=named, **arguments)


ROWS += [
    Row(f"a solver called {name!r}", lambda folder, name=name: _module([name]), (repr(name), "letters"))
    for name in ("", ".", "..", "a/b", "/tmp", "a b", " ", ".hidden", "a\nb", "a\\b", "sum", "mean", 3, None)
]
ROWS += [
    Row("no solver at all", lambda folder: _module([]), ("solvers is empty",)),
    Row(
        "no solver of a one-step student",
        lambda folder: modules.OneStepStudent(tiny.Affine(), solvers={}),
        ("solvers is empty",),
    ),
]

OPTIMIZERS: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    ("Adam: lr -1", lambda p: torch.optim.Adam(p, lr=-1.0), ("learning rate", "model.optimizer")),
    ("Adam: lr nan", lambda p: torch.optim.Adam(p, lr=math.nan), ("learning rate",)),
    ("Adam: lr inf", lambda p: torch.optim.Adam(p, lr=math.inf), ("lr is inf",)),
    ("Adam: betas 2", lambda p: torch.optim.Adam(p, betas=(2.0, 0.9)), ("beta",)),
    ("Adam: weight_decay nan", lambda p: torch.optim.Adam(p, weight_decay=math.nan), ("weight_decay",)),
    ("SGD: lr nan", lambda p: torch.optim.SGD(p, lr=math.nan), ("SGD", "lr is nan")),
    ("SGD: lr inf", lambda p: torch.optim.SGD(p, lr=math.inf), ("SGD", "lr is inf")),
    (
        "SGD: weight_decay nan",
        lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=math.nan),
        ("weight_decay is",),
    ),
    ("SGD: momentum nan", lambda p: torch.optim.SGD(p, lr=1.0, momentum=math.nan), ("momentum is nan",)),
    ("SGD: no lr", lambda p: torch.optim.SGD(p, lr="fast"), ("model.optimizer",)),
]
ROWS += [
    Row(f"optimizer {name}", lambda folder, make=make: optimizer_of(_module(optimizer=make)), words)
    for name, make, words in OPTIMIZERS
]

SCHEDULERS: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    ("T_max 0", lambda o: lr_scheduler.CosineAnnealingLR(o, 0), ("first steps",)),
    ("step_size 0", lambda o: lr_scheduler.StepLR(o, 0), ("first steps",)),
    ("gamma nan", lambda o: lr_scheduler.ExponentialLR(o, math.nan), ("lr is nan",)),
    ("gamma -1", lambda o: lr_scheduler.ExponentialLR(o, -1.0), ("lr is -",)),
    ("OneCycle of 0 steps", lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=0), ("lr_scheduler",)),
    ("WarmUp of -1 steps", lambda o: schedules.WarmUp(o, -1), ("steps is -1",)),
    ("WarmUp to 0", lambda o: schedules.WarmUp(o, 1, 0), ("total is 0",)),
    ("WarmUp, floor 1", lambda o: schedules.WarmUp(o, 1, 9, 1.0), ("floor is 1.0",)),
    ("lambda nan", lambda o: lr_scheduler.LambdaLR(o, lambda step: math.nan), ("lr is nan",)),
]
ROWS += [
    Row(f"scheduler {name}", lambda folder, make=make: optimizer_of(_module(lr_scheduler=make)), words)
    for name, make, words in SCHEDULERS
]

TRAINER: list[tuple[str, tuple[Any, ...]]] = [
    ("max_steps", (0, -2, 2.5, "3", True, None, math.nan)),
    ("max_epochs", (0, -2, 2.5, "3")),
    ("min_steps", (-1, 2.5)),
    ("accumulate_grad_batches", (0, -1, 2.5, "3", True)),
    ("val_check_interval", (0, -1, 1.5, math.nan, math.inf, 0.0)),
    ("check_val_every_n_epoch", (0, -1, 1.5)),
    ("num_sanity_val_steps", (-2, 1.5)),
    ("log_every_n_steps", (-1, 1.5, "often")),
    ("gradient_clip_val", (-1, math.nan, math.inf, "1")),
    ("limit_train_batches", (-1, 1.5, math.nan)),
    ("limit_val_batches", (-1, 1.5, "all")),
    ("overfit_batches", (-1, 1.5)),
    ("num_nodes", (0, -1)),
]
ROWS += [
    Row(
        f"trainer: {name} = {value!r}",
        lambda folder, name=name, value=value: FlowTrainer(accelerator="cpu", logger=False, **{name: value}),
        (f"trainer.{name} is", "expected"),
    )
    for name, values in TRAINER
    for value in values
]


def _endless(folder: Path, **arguments: Any) -> None:
    FlowTrainer(accelerator="cpu", logger=False, default_root_dir=str(folder), **arguments).fit(_module())


ROWS += [
    Row("a fit without an end", _endless, ("nothing ends this fit", "--trainer.max_steps")),
    Row(
        "a fit of -1 steps and epochs",
        partial(_endless, max_steps=-1, max_epochs=-1),
        ("nothing ends this fit", "max_time"),
    ),
]


def _fit(*words: object) -> Callable[[Path], Any]:
    def attempt(folder: Path) -> Any:
        return in_process("fit", "-c", tiny.write(folder / "fit.yaml", tiny.fit(folder / "run")), *words)

    return attempt


COMMANDS: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
    (("--data.batch_size", 0), ("data.batch_size", "found 0", "> 0")),
    (("--data.batch_size", 2.5), ("data.batch_size", "found 2.5", "whole number")),
    (("--data.num_workers", -1), ("data.num_workers", "found -1", ">= 0")),
    (("--data.seed", -1), ("data.seed", "2**64")),
    (("--seed_everything", -1), ("seed_everything is -1", "2**32")),
    (("--seed_everything", 2**40), ("seed_everything is", "2**32")),
    (("--trainer.max_steps", 0), ("trainer.max_steps is 0", "> 0")),
    (("--trainer.max_steps", -1), ("nothing ends this fit",)),
    (("--trainer.accumulate_grad_batches", 0), ("trainer.accumulate_grad_batches is 0",)),
    (("--trainer.val_check_interval", 0), ("trainer.val_check_interval is 0",)),
    (("--model.optimizer.lr", -1), ("learning rate", "model.optimizer")),
    (("--model.network.dropout", 2), ("model.network.dropout", "in [0, 1]")),
    (("--model.solvers", "{}"), ("solvers is empty",)),
    (("--model.solvers", "{a/b: {class_path: Euler}}"), ("'a/b'",)),
    (("--model.solvers", "{a: {class_path: RK2, init_args: {steps: 2, r: 0}}}"), ("in (0, 1]",)),
    (("--trainer.callbacks", "[{class_path: flowlit.callbacks.EMA, init_args: {decay: 2}}]"), ("in [0, 1)",)),
]
ROWS += [Row(f"fit {' '.join(map(str, words))}"[:60], _fit(*words), expected) for words, expected in COMMANDS]
