"""flowlit's own training step with its fast options on, and the same step in a bare loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from flowlit.callbacks import EMA, Anneal, ChannelsLast, Compile, Gradients
from flowlit.callbacks.training.gradients import Entries
from flowlit.couplings import Cached
from flowlit.modules import FlowDataModule, OneStepStudent, ReflowStudent
from flowlit.objectives import AnnealedReflow, Combined, Distillation, FlowGuided
from flowlit.objectives.times import Uniform
from flowlit.paths import anneal, interpolate
from flowlit.schedules import Linear, WarmUp

from .data import quiet_trainer
from .research import HORIZON, WARM_UP
from .timing import finished, wall


class Laps(Callback):
    """Seconds of the steps after the first ones, and their number; the device is waited for at both ends
    only.
    """

    def __init__(self, warm: int, device: str):
        self.warm, self.device, self.begin, self.seconds = warm, device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.warm:
            finished(self.device)
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        finished(self.device)
        self.seconds = time.perf_counter() - self.begin


class Beside(Callback):
    """Between every ``block`` steps of a fit as many of each other contender: seconds of a step, turn by
    turn.

    A busy moment of the machine meets all of them, and all that Lightning does from one block to the next
    counts as the fit's.

    Args:
        others: by name, what takes so many steps.
        block: steps of a turn, after which the device is waited for.
        warm: turns that do not count.
        device: "cpu" or "cuda".
    """

    def __init__(self, others: dict[str, Callable[[int], object]], block: int, warm: int, device: str):
        self.others, self.block, self.warm, self.device, self.begin = others, block, warm, device, 0.0
        self.laps: dict[str, list[float]] = {name: [] for name in (*others, "flowlit")}

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        turn, within = divmod(trainer.global_step, self.block)
        if within:
            return
        finished(self.device)
        if turn > self.warm:
            self.laps["flowlit"].append((time.perf_counter() - self.begin) / self.block)
        for name, steps in self.others.items():
            seconds = wall(partial(steps, self.block), self.device) / self.block
            if turn >= self.warm:
                self.laps[name].append(seconds)
        self.begin = time.perf_counter()


def fused(parameters: Any) -> torch.optim.Optimizer:
    """Adam as the experiments configure it, in one kernel."""
    return torch.optim.Adam(parameters, lr=2e-4, fused=True)


def callbacks(device: str, guide: nn.Module | None) -> list[Callback]:
    """Those of the experiments that act in every step, and those that make it fast."""
    annealing = [] if guide else [Anneal(Linear(HORIZON))]
    compiled = [Compile()] if device == "cuda" else []
    return [*annealing, EMA(0.999999), Gradients(clip=1.0), ChannelsLast(), *compiled]


def fit(
    network: nn.Module,
    store: Path,
    batch: int,
    steps: int,
    device: str,
    watch: Callback,
    guide: nn.Module | None = None,
    devices: int = 1,
) -> None:
    """Train as ``flowlit fit`` does on a store: reflow, or distillation with a guide.

    Pairs are held on the device, networks compute in bfloat16 and channels-last order, and on a GPU compiled.
    """
    schedule = partial(WarmUp, steps=WARM_UP)
    model: Any
    if guide is None:
        model = ReflowStudent(
            network, AnnealedReflow(times=Uniform(low=1e-3)), optimizer=fused, lr_scheduler=schedule
        )
    else:
        objective = Combined({"distillation": Distillation(), "two_step": FlowGuided(guide)})
        model = OneStepStudent(network, objective, optimizer=fused, lr_scheduler=schedule)
    data = FlowDataModule(Cached(str(store), flip=True, resident=True), batch_size=batch)
    trainer = quiet_trainer(
        accelerator=device,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed",
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[*callbacks(device, guide), watch],
    )
    trainer.fit(model, data)


def fit_seconds(
    network: nn.Module, store: Path, batch: int, steps: int, warm: int, device: str, devices: int = 1
) -> float:
    """Seconds of a step of reflow by flowlit alone, after ``warm`` steps."""
    laps = Laps(warm, device)
    fit(network, store, batch, warm + steps, device, laps, devices=devices)
    return laps.seconds / steps


class BareLoop:
    """The same reflow step as in ``fit``, as fast as PyTorch alone allows: no Lightning, no callbacks."""

    def __init__(self, network: nn.Module, x0: Tensor, x1: Tensor, batch: int, device: str):
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if device == "cuda":
            self.network.compile()
        self.x0, self.x1, self.batch, self.device = x0.half().to(device), x1.half().to(device), batch, device
        self.parameters = list(self.network.parameters())
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer, self.step = fused(self.parameters), 0
        self.bad = torch.zeros((), device=device)

    def steps(self, count: int) -> None:
        """Train."""
        for _ in range(count):
            self.train()

    def train(self) -> None:
        """One step."""
        rows = torch.randint(len(self.x0), (self.batch,)).to(self.device, non_blocking=True)
        x0, x1 = self.x0[rows].float(), self.x1[rows].float()
        mirrored = (torch.rand(self.batch, device=self.device) < 0.5)[:, None, None, None]
        x0, x1 = torch.where(mirrored, x0.flip(-1), x0), torch.where(mirrored, x1.flip(-1), x1)
        x0 = anneal(x0, torch.randn_like(x0), max(0.0, 1 - self.step / HORIZON))
        t = torch.rand(self.batch, device=self.device) * 0.999 + 0.001
        with torch.autocast(self.device, torch.bfloat16):
            velocity = self.network(interpolate(x0, x1, t), t)
        loss = (velocity.float() - (x1 - x0)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = 2e-4 * min(1.0, (self.step + 1) / WARM_UP)
        entries = Entries([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self.bad += entries.count_bad()
        entries.repair()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        torch._foreach_lerp_(self.averages, self.parameters, 1e-6)
        self.step += 1
