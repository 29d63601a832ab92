"""A training step gives work to a GPU and waits for nothing: no value of a tensor is looked at but where
numbers are logged.

On a CPU, where these tests run, nothing waits; but the same operations are called that would.
"""

import inspect
from pathlib import Path

import pytest
import tiny
import torch
from commandline import in_process
from lightning.pytorch.callbacks import Callback
from matrix import few
from stores import fill
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from flowlit.couplings import SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.networks import UNet

aten = torch.ops.aten
LOOKS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.equal,
    aten.masked_select,
    aten.bincount,
}
"""What has to know values: their result is a Python number, or has a size that depends on them."""

READS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__}
MAKES = {torch.tensor, torch.as_tensor, torch.asarray}
OPTIMIZER, LOADER = "/torch/optim/", "/torch/utils/data/"
"""Adam's count of steps is a CPU's tensor unless it is fused, and so is what a loader has not handed over."""


SOURCE = str(Path(__file__).parents[3] / "flowlit")


def culprit() -> str | None:
    """The innermost lines of ours and of Lightning that are at work; None where it is a CPU's business."""
    frame, lines = inspect.currentframe(), []
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if LOADER in path or (
            OPTIMIZER in path and not lines
        ):  # the optimizer calls all the rest of a step: only its own lines
            return None
        if path.startswith(SOURCE) or "/lightning/" in path or name in MINE:
            lines.append(f"{Path(path).name}:{frame.f_lineno} {name}")
        frame = frame.f_back
    return " < ".join(lines[:4])


class Waits:
    """Who would wait for a GPU, by the optimizer step that is going on: ``found[step]`` lists lines."""

    def __init__(self):
        self.step, self.found = -1, {}

    def tell(self, what):
        if (line := culprit()) is not None:
            self.found.setdefault(self.step, []).append(f"{what}: {line}")

    def in_steps(self, steps):
        return [line for step in steps for line in self.found.get(step, [])]


class Operations(TorchDispatchMode):
    """Sees every operation, those of the backward pass, too."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func._overloadpacket is aten.index and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        if func._overloadpacket in LOOKS or masks:
            self.waits.tell(func)
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Sees what no operation tells on a CPU: tensors that become lists or arrays, and numbers that are made
    for a device.
    """

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in READS or (func in MAKES and kwargs.get("device") is not None):
            self.waits.tell(func.__name__)
        return func(*args, **kwargs)


class Steps(Callback):
    """Tells ``waits`` which step is going on: from its first hook to that of the next one, the next batch's
    loading included.
    """

    waits: Waits

    def on_train_batch_start(self, trainer, *_):
        self.waits.step = trainer.global_step

    def on_train_end(self, *_):
        self.waits.step = -1


def objective(kind, **arguments):
    return {"class_path": f"flowlit.objectives.{kind}", "init_args": arguments}


def callback(kind, **arguments):
    return {"class_path": f"flowlit.callbacks.{kind}", "init_args": arguments}


LOGGED, WINDOW, SAVED, STEPS = 6, 4, 9, 15
"""Every so many steps numbers are logged, ``Rollback`` judges, and a checkpoint is written."""
LOUD = {0, STEPS - 1} | {s for n in (LOGGED, WINDOW, SAVED) for s in range(n - 1, STEPS, n)}
QUIET = [step for step in range(STEPS) if step not in LOUD]
"""The first step sets everything up; the last one is shown and saved."""


def everybody(**gradients):
    return [
        {"class_path": f"{__name__}.Steps"},
        tiny.anneal(10),
        tiny.EMA,
        callback(
            "EMA",
            name="narrow",
            profile={"class_path": "flowlit.schedules.averages.PowerLaw", "init_args": {"std": 0.1}},
        ),
        callback("Gradients", **gradients),
        callback("LossOverTime"),
        callback("Throughput"),
        callback("Rollback", window=WINDOW),
        {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"},
        callback("Progress"),
        tiny.checkpoints(SAVED),
    ]


def watched(
    tmp_path, module="ReflowStudent", objective=None, coupling=None, callbacks=None, critic=None, **trainer
):
    """Train, and tell who would have waited."""
    content = tiny.fit(
        tmp_path / "run", module, tiny.unet(dropout=0.1), coupling, callbacks or everybody(), STEPS
    )
    content["trainer"].update(log_every_n_steps=LOGGED, enable_progress_bar=True, **trainer)
    if objective is not None:
        content["model"]["init_args"]["objective"] = objective
    if critic is not None:
        content["model"]["init_args"]["critic"] = critic
    if coupling is not None:
        content["data"]["init_args"]["noise"] = tiny.noise()
    path = tiny.write(tmp_path / "run.yaml", content)
    Steps.waits = waits = Waits()
    with Operations(waits), Calls(waits):
        outcome = in_process("fit", "-c", path)
    assert outcome.code == 0, outcome.err
    return waits


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    noise = FromNoise(SeededNoise(tiny.SHAPE, 50, seed=3))
    return fill(tmp_path_factory.mktemp("pairs") / "store", origin=noise, x0="float16", x1="uint8")


CASES = {
    "annealed reflow of fresh noise and images": {},
    "accumulated batches": {"accumulate_grad_batches": 2},
    "bfloat16": {"precision": "bf16-mixed"},
    "stored pairs": {"stored": {"flip": True}},
    "resident pairs": {"stored": {"resident": True}},
    "pairs of a teacher": {"solver": "Heun"},
}


@pytest.mark.parametrize("case", few(list(CASES), 3))
def test_a_step_of_reflow_waits_for_nothing(tmp_path, store, case):
    arguments = dict(CASES[case])
    stored = arguments.pop("stored", None)
    coupling = None if stored is None else tiny.cached(store, **stored)
    if "solver" in arguments:
        solver = {"class_path": f"flowlit.solvers.{arguments.pop('solver')}", "init_args": {"steps": 2}}
        teacher = {"teacher": tiny.unet(), "solver": solver, "noise": tiny.noise(50, seed=4)}
        coupling = {"class_path": "flowlit.couplings.Simulated", "init_args": teacher}
    waits = watched(tmp_path, coupling=coupling, **arguments)
    assert waits.in_steps(QUIET) == []
    assert waits.in_steps([LOGGED - 1]), (
        "the operations that log numbers were not seen, so the others might not have been"
    )


@pytest.mark.parametrize("first_step", few(["student", "guide"], 1))
def test_a_step_of_distillation_waits_for_nothing(tmp_path, store, first_step):
    guided = {"guide": tiny.unet(), "first_step": first_step}
    parts = {"distillation": objective("Distillation"), "two_step": objective("FlowGuided", **guided)}
    callbacks = [each for each in everybody() if "Anneal" not in each["class_path"]]
    waits = watched(
        tmp_path, "OneStepStudent", objective("Combined", objectives=parts), tiny.cached(store), callbacks
    )
    assert waits.in_steps(QUIET) == [] != waits.in_steps([LOGGED - 1])


def test_a_step_of_two_networks_waits_for_nothing(tmp_path):
    """The critic's updates are batches of the step."""
    skipped = ("Anneal", "LossOverTime")
    callbacks = [each for each in everybody() if not each["class_path"].endswith(skipped)]
    second = {"class_path": "games.Discriminator"}
    critic = {"class_path": "flowlit.modules.Critic", "init_args": {"network": second, "updates": 2}}
    waits = watched(tmp_path, "CriticModule", {"class_path": "games.Game"}, None, callbacks, critic)
    assert waits.in_steps(QUIET) == [] != waits.in_steps([LOGGED - 1])


def test_rollback_alone_waits_once_a_window(tmp_path):
    lines = watched(tmp_path).in_steps([WINDOW - 1, 2 * WINDOW - 1])
    assert lines and all("rollback.py" in line and "_judge" in line for line in lines), lines


def test_skipping_a_bad_step_waits_once_a_step_to_know_whether_it_is_bad(tmp_path):
    """The one exception: an optimizer that must not step is told so by the CPU."""
    waits = watched(tmp_path, callbacks=everybody(nonfinite="skip"))
    for step in QUIET:
        (line,) = waits.in_steps([step])
        assert "gradients.py" in line and "on_before_optimizer_step" in line


# what would not be seen if
# nothing looked


class Peeps(torch.autograd.Function):
    """Looks at a value in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return peep(gradient)


def peep(gradient):
    return gradient * float(gradient.flatten()[0] < 1e9)


MINE = {peep.__name__}


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_network_that_looks_at_values_is_found(tmp_path, monkeypatch, where):
    look = {"forward": peep, "backward": Peeps.apply}[where]
    plain = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x, t, cond={}: look(plain(self, x, t, cond)))
    waits = watched(tmp_path)
    for step in QUIET:
        (line,) = waits.in_steps([step])
        assert ": test_synchronisation.py" in line and " peep < " in line


def test_a_mask_a_list_an_array_and_a_number_for_the_device_are_found():
    waits, x = Waits(), torch.arange(3.0)
    with Operations(waits), Calls(waits):
        for look in (
            lambda: x[x > 1],
            x.tolist,
            x.numpy,
            lambda: bool(x.sum()),
            lambda: torch.tensor(1.0, device="cpu"),
        ):
            before = len(waits.found.get(-1, []))
            look()
            assert len(waits.found[-1]) > before


def test_another_bar_is_handed_the_loss_in_every_step(tmp_path):
    """Why ``Progress`` reads it by itself: Lightning's way is a look at the loss in every step."""
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    callbacks = [bar if "Progress" in each["class_path"] else each for each in everybody()]
    lines = watched(tmp_path, callbacks=callbacks).in_steps(QUIET)
    assert len(lines) >= len(QUIET) and all("result.py" in line or "progress" in line for line in lines), (
        lines
    )


class Shown(Callback):
    """Keeps how far the bar is after each batch, and the loss beside it, told and real."""

    rows: list

    def __init__(self):
        Shown.rows = []

    def on_train_batch_end(self, trainer, *_):
        bar = trainer.progress_bar_callback.train_progress_bar
        Shown.rows.append(
            (
                bar.n,
                (bar.postfix or "").split("train/loss=")[-1],
                float(trainer.callback_metrics["train/loss"]),
            )
        )


@pytest.mark.parametrize("max_steps", [STEPS, -1])
def test_the_bar_counts_every_step_and_reads_the_loss_of_some(tmp_path, max_steps):
    callbacks = [tiny.anneal(10), callback("Progress"), {"class_path": f"{__name__}.Shown"}]
    watched(tmp_path, callbacks=callbacks, max_steps=max_steps, max_epochs=1, limit_train_batches=STEPS)
    assert [n for n, _, _ in Shown.rows] == list(range(1, STEPS + 1))
    read = [step for step in range(STEPS) if step in (0, STEPS - 1) or (step + 1) % LOGGED == 0]
    told = Shown.rows[0][1]
    for step, (_, shown, loss) in enumerate(Shown.rows):
        told = shown if step in read else told
        assert shown == told and float(shown) == pytest.approx(
            Shown.rows[max(s for s in read if s <= step)][2], rel=2e-2
        )
        assert step not in read or float(shown) == pytest.approx(loss, rel=2e-2)
