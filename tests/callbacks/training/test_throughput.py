"""Where the time of a step goes, what the device could do in it, and that looking changes nothing."""

from types import SimpleNamespace

import pytest
import runs
import tiny
import torch
from commandline import REPOSITORY, in_process
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from matrix import few
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from flowlit import rng
from flowlit._support.timers import DeviceTimer, StepTimer
from flowlit.callbacks import EMA, Gradients, LastCheckpoint, Throughput
from flowlit.callbacks.training import ema as ema_file
from flowlit.callbacks.training.throughput import PARTS, Last
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.metrics.cost import count_flops
from flowlit.metrics.speed import bandwidth, matmul_rate
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import UNet
from flowlit.objectives import AnnealedReflow, Combined, Distillation, FlowGuided, RectifiedFlow
from flowlit.schedules.averages import PowerLaw
from flowlit.solvers import Euler
from flowlit.types import Pair

CPU = torch.device("cpu")


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    def after(self, seconds, function):
        def slow(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)

        return slow


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for file in ("callbacks.training.throughput", "_support.timers"):
        monkeypatch.setattr(f"flowlit.{file}.time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


class Slow(Callback):
    """Takes its time in the hooks of a callback."""

    def __init__(self, clock, before=0.0, after=0.0, validation=0.0):
        self.clock, self.before, self.after, self.validation = clock, before, after, validation

    def on_train_batch_start(self, *_):
        self.clock.now += self.before

    def on_train_batch_end(self, *_):
        self.clock.now += self.after

    def on_validation_batch_start(self, *_):
        self.clock.now += self.validation


class Late(torch.autograd.Function):
    """The identity, whose backward pass takes four seconds."""

    clock: Clock

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Late.clock.now += 4
        return gradient


class Timed(tiny.Affine):
    """Takes two seconds forwards, and four backwards."""

    def __init__(self, clock):
        super().__init__()
        Late.clock = clock

    def forward(self, x, t, cond={}):
        Late.clock.now += 2 * self.training
        return Late.apply(super().forward(x, t, cond))


def slow_sgd(clock):
    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            loss = closure()
            clock.now += 8
            super().step()
            return loss

    return lambda parameters: SGD(parameters, lr=0.1)


def pairs(batch_size=4):
    noise = SeededNoise(tiny.SHAPE, 8, seed=11)
    return FlowDataModule(
        Independent(Digits(labels=False, limit=40)), batch_size, noise, noise_batch_size=8, seed=5
    )


def scalars(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def board(folder):
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(str(folder), name="", version="")


def timed_fit(folder, clock, monkeypatch, callbacks, steps=6, **arguments):
    """Train a network whose parts take 1, 2, 4, 8 and 16 seconds; all scalars that were logged."""
    monkeypatch.setattr(ema_file.AveragedWeights, "move", clock.after(16, ema_file.AveragedWeights.move))
    data = pairs()
    data.on_after_batch_transfer = clock.after(1, data.on_after_batch_transfer)
    module = FlowModule(Timed(clock), RectifiedFlow(), slow_sgd(clock), solvers={"euler": Euler(1)})
    trainer = tiny.trainer(
        folder, steps, callbacks, logger=board(folder), **{"limit_val_batches": 0, **arguments}
    )
    trainer.fit(module, data)
    return scalars(folder), trainer


def parts_of(logged, step):
    return {part: logged[f"step_seconds/{part}"][step] for part in PARTS}


@pytest.mark.parametrize("order", ["after", "before"])
def test_the_parts_of_a_step_are_told_exactly_and_add_up(tmp_path, monkeypatch, clock, order):
    """Whether the average is taken before or behind ``Throughput`` in the list."""
    callbacks = [Throughput(), EMA(0.9)][:: 1 if order == "after" else -1]
    logged, _ = timed_fit(
        tmp_path, clock, monkeypatch, [*callbacks, Slow(clock, 32, 64)], log_every_n_steps=2
    )
    # the first window ends within a step: its work behind Throughput (average or not, 64 s of the other
    # callback) is in the next
    late = 16 * (order == "after")
    first = {
        "data": 1.0,
        "forward": 2.0,
        "backward": 4.0,
        "optimizer": 8.0,
        "ema": 16 - late / 2,
        "rest": 32 + 64 / 2,
    }
    assert parts_of(logged, 1) == first
    for step in (3, 5):
        assert parts_of(logged, step) == {**first, "ema": 16.0, "rest": 32 + 64}
    for step in (1, 3, 5):
        assert logged["step_seconds/all"][step] == sum(parts_of(logged, step).values())
        assert logged["images_per_s/train"][step] == pytest.approx(4 / logged["step_seconds/all"][step])


def test_several_averages_add_up(tmp_path, monkeypatch, clock):
    averages = [EMA(0.9), EMA(profile=PowerLaw(0.1), name="long"), EMA(0.5, name="short")]
    logged, _ = timed_fit(tmp_path, clock, monkeypatch, [averages[0], Throughput(), *averages[1:]], steps=3)
    assert parts_of(logged, 2)["ema"] == 3 * 16 and logged["step_seconds/all"][2] == 1 + 2 + 4 + 8 + 48


def test_all_batches_of_a_step_count(tmp_path, monkeypatch, clock):
    """Means for a batch; optimizer and average work once for the two of a step."""
    logged, _ = timed_fit(
        tmp_path, clock, monkeypatch, [EMA(0.9), Throughput()], steps=2, accumulate_grad_batches=2
    )
    expected = {"data": 1.0, "forward": 2.0, "backward": 4.0, "optimizer": 4.0, "ema": 8.0, "rest": 0.0}
    assert parts_of(logged, 1) == expected and logged["step_seconds/all"][1] == sum(expected.values())


def test_validation_is_left_out_and_checkpoints_are_rest(tmp_path, monkeypatch, clock):
    keeper = LastCheckpoint(1)
    keeper.write = clock.after(100, keeper.write)
    callbacks = [Throughput(), keeper, Slow(clock, validation=1000)]
    arguments = {
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 2,
    }
    logged, _ = timed_fit(tmp_path, clock, monkeypatch, callbacks, **arguments, enable_checkpointing=True)
    for step in (3, 5):
        assert parts_of(logged, step) == {
            "data": 1,
            "forward": 2,
            "backward": 4,
            "optimizer": 8,
            "ema": 0,
            "rest": 100,
        }
        assert logged["step_seconds/all"][step] == 115


def test_clipping_belongs_to_the_optimizer(tmp_path, monkeypatch, clock):
    guard = Gradients()
    guard._clip = clock.after(128, guard._clip)
    logged, _ = timed_fit(tmp_path, clock, monkeypatch, [guard, Throughput()], steps=2)
    assert parts_of(logged, 1) == {
        "data": 1,
        "forward": 2,
        "backward": 4,
        "optimizer": 8 + 128,
        "ema": 0,
        "rest": 0,
    }


def test_nothing_is_left_behind_when_training_is_over(tmp_path, monkeypatch, clock):
    average = EMA(0.9)
    _, trainer = timed_fit(tmp_path, clock, monkeypatch, [Throughput(), average], steps=1)
    assert not any(isinstance(callback, Last) for callback in trainer.callbacks)
    now = clock.now
    with average._timed():
        pass
    assert clock.now == now and average._timed.__name__ == "nullcontext"


def test_a_second_fit_of_the_same_trainer_has_one_end_of_a_step(tmp_path, monkeypatch, clock):
    """``Rollback`` begins anew without a teardown."""
    callback = Throughput()
    trainer = SimpleNamespace(callbacks=[callback])
    for _ in range(2):
        callback.setup(trainer, None, "fit")
    assert [type(each).__name__ for each in trainer.callbacks] == ["Throughput", "Last"]


# ------------------------------------------------------------------------------------------------------------
# a GPU's time


class Event:
    """A CUDA event of a device that is at ``done``: an event happens when the device gets to it."""

    clock = done = 0.0
    waited = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = Event.clock

    def query(self):
        return self.at <= Event.done

    def synchronize(self):
        Event.waited, Event.done = Event.waited + 1, max(Event.done, self.at)

    def elapsed_time(self, end):
        assert self.query() and end.query(), "PyTorch raises an error"
        return 1000 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.clock, Event.done, Event.waited = 0.0, 0.0, 0


@pytest.fixture
def line(gpu):
    line = StepTimer()
    line.begin("data", torch.device("cuda"))
    return line


def test_events_are_read_when_they_have_happened_and_waited_for_only_by_read(line):
    for second, part in enumerate(["forward", "backward", "data"] * 100, 1):
        Event.clock, Event.done = (
            float(second),
            float(max(0, second - 5)),
        )  # the device is five seconds behind
        line.mark(part)
        assert len(line._marks) <= 7, "events that have happened are kept"
    assert Event.waited == 0
    assert line.read() == {"data": 100, "forward": 100, "backward": 100} and Event.waited == 1
    assert line.read() == {}


def test_a_stopwatch_that_nobody_reads_keeps_few_events(gpu):
    """It kept two for every batch of a run without ``Throughput``."""
    watch = DeviceTimer()
    for second in range(100):
        Event.done = float(second - 5)
        with watch.running(torch.device("cuda")):
            Event.clock = second + 0.5
        Event.clock = second + 1.0
        assert len(watch._marks) <= 7
    assert watch.read() == 0.5 and not watch._marks and watch.read() == 0


def test_a_part_within_another_interrupts_it(line):
    line.mark("rest")
    Event.clock = 3.0
    with line.during("ema"):
        Event.clock = 10.0
    Event.clock = 11.0
    line.mark("data")
    assert line.read() == {"data": 0, "rest": 4, "ema": 7}


def test_before_it_begins_a_timeline_takes_no_notes():
    line = StepTimer()
    with line.during("ema"):
        pass
    assert line.part is None and line.read() == {}


# work and
# what is possible


def unet(**changes):
    shape = {
        "resolution": 8,
        "in_channels": 1,
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention_resolutions": [8],
    }
    return UNet(**{**shape, "dropout": 0.1, **changes})


def a_pair(rows=4):
    return Pair(torch.randn(rows, *tiny.SHAPE), torch.randn(rows, *tiny.SHAPE))


OBJECTIVES = {
    "reflow": lambda: AnnealedReflow(beta=0.3),
    "distillation": lambda: Combined({"a": Distillation(), "b": FlowGuided(unet(), first_step="guide")}),
}


def counted(objective, network, pair):
    return count_flops(lambda objective, network: objective(network, pair)["loss"], objective, network)


def happened(objective, network, pair):
    with FlopCounterMode(display=False) as real:
        objective(network, pair)["loss"].backward()
    return real.get_total_flops()


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_counted_work_is_that_of_the_real_step(kind, precision):
    network, objective, pair = unet(), OBJECTIVES[kind](), a_pair()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        assert counted(objective, network, pair) == happened(objective, network, pair) > 0


def test_counting_draws_nothing_computes_nothing_and_changes_nothing():
    """The guide's weights lost their values: at its first call it was moved to where it was already."""
    network, guide, pair, share = tiny.Affine(), unet(), a_pair(), rng.Share(1, 4, 4)
    objective, before = FlowGuided(guide), {key: value.clone() for key, value in guide.state_dict().items()}
    rng.begin(share)
    try:
        states = torch.get_rng_state(), share.generator(CPU).get_state()
        assert counted(objective, network, pair) > 0
        assert torch.equal(states[0], torch.get_rng_state()) and torch.equal(
            states[1], share.generator(CPU).get_state()
        )
    finally:
        rng.begin(None)
    assert (
        type(network.calls) is torch.Tensor and network.calls == 0 and tiny.same(before, guide.state_dict())
    )
    assert all(
        type(p) is torch.nn.Parameter and p.grad is None for p in (*network.parameters(), *guide.parameters())
    )
    assert objective.guide.network is guide and type(objective(network, pair)["loss"]) is torch.Tensor


def test_compiled_networks_are_counted_as_they_were_before():
    network, objective, pair = unet(), FlowGuided(unet()), a_pair()
    expected = happened(objective, network, pair)
    for each in (network, objective.guide.network):
        each._compiled_call_impl = lambda *_: pytest.fail("called what compiling made")
    assert counted(objective, network, pair) == expected


class Known(Callback):
    """Keeps what was logged last."""

    def on_train_batch_end(self, trainer, *_):
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


def whole_fit(folder, objective, callbacks=(), **arguments):
    torch.manual_seed(1)
    adam = lambda parameters: torch.optim.Adam(parameters, 1e-3)  # noqa: E731
    module = FlowModule(unet(), objective, adam, solvers={"euler": Euler(1)})
    logger = CSVLogger(str(folder), name="", version="")
    trainer = tiny.trainer(folder, 3, callbacks, logger=logger, limit_val_batches=0, **arguments)
    trainer.fit(module, pairs())
    return module.state_dict(), trainer


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_fraction_of_the_peak_is_work_by_time_by_what_is_possible(tmp_path, monkeypatch, accumulated):
    torch.manual_seed(1)
    objective, peak = FlowGuided(unet()), 1e12
    monkeypatch.setattr("flowlit.callbacks.training.throughput.peak", lambda trainer: peak)
    known = Known()
    whole_fit(tmp_path, objective, [Throughput(), known], accumulate_grad_batches=accumulated)
    rate = happened(objective, unet(), a_pair(4 // accumulated)) / known.logged["step_seconds/all"]
    assert known.logged["fraction_of_peak/train"] == pytest.approx(rate / peak, rel=1e-5)


def test_looking_changes_no_bit(tmp_path, monkeypatch):
    plain_run, _ = whole_fit(tmp_path / "plain", AnnealedReflow(beta=0.5))
    monkeypatch.setattr("flowlit.callbacks.training.throughput.peak", lambda trainer: 1e12)
    looked_at, trainer = whole_fit(tmp_path / "watched", AnnealedReflow(beta=0.5), [Throughput()])
    assert "fraction_of_peak/train" in trainer.callback_metrics and tiny.same(plain_run, looked_at)


class Undecided(RectifiedFlow):
    """Looks at its loss."""

    def forward(self, velocity, pair):
        parts = super().forward(velocity, pair)
        return parts if parts["loss"] > 0 else {"loss": 0 * parts["loss"]}


def test_work_that_cannot_be_counted_is_not_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("flowlit.callbacks.training.throughput.peak", lambda trainer: 1e12)
    with caplog.at_level("INFO", "lightning.pytorch"):
        _, trainer = whole_fit(tmp_path, Undecided(), [Throughput()])
    assert (
        "fraction_of_peak/train" not in trainer.callback_metrics
        and "step_seconds/all" in trainer.callback_metrics
    )
    assert sum("fraction of the device's peak is unknown" in record.message for record in caplog.records) == 1


def test_a_cpu_is_not_asked_for_its_peak(tmp_path, monkeypatch):
    monkeypatch.setattr("flowlit.callbacks.training.throughput.matmul_rate", lambda *_: 1 / 0)
    _, trainer = whole_fit(tmp_path, RectifiedFlow(), [Throughput()])
    assert not [name for name in trainer.callback_metrics if name.startswith("fraction_of_peak")]


@pytest.mark.parametrize(
    ("precision", "tf32", "dtype", "products"),
    [
        ("32-true", True, torch.float32, "high"),
        ("32-true", False, torch.float32, "highest"),
        ("bf16-mixed", True, torch.bfloat16, "high"),
        ("16-mixed", True, torch.float16, "high"),
        ("64-true", True, torch.float64, "high"),
    ],
)
def test_the_peak_is_that_of_the_precision_of_training(monkeypatch, precision, tf32, dtype, products):
    """Convolutions of float32 are made in TF32 unless they are told not to, so products must be, too."""
    from flowlit.callbacks.training.throughput import peak

    asked = []
    monkeypatch.setattr(
        "flowlit.callbacks.training.throughput.matmul_rate",
        lambda *given: asked.append((*given, torch.get_float32_matmul_precision())),
    )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    gpu = torch.device("cuda", 0)
    peak(SimpleNamespace(strategy=SimpleNamespace(root_device=gpu), precision=precision))
    assert asked == [(gpu, dtype, products)] and torch.get_float32_matmul_precision() == "highest"


def test_rates_of_the_device_are_in_operations_by_the_median_and_in_bytes_by_the_best(monkeypatch):
    """On a clock where the first call, which warms up, takes ten times as long."""
    now, took = 0.0, iter([])
    ends = iter([False, True] * 100)

    def clock():
        nonlocal now
        now += next(took) if next(ends) else 0
        return now

    monkeypatch.setattr("timeit.default_timer", clock)
    took = iter([1.0, 0.001, 9.0, 0.05, 9.0, 0.1, 0.2, 0.4])  # two sizes are tried, then three repeats
    assert matmul_rate("cpu", repeats=3) == pytest.approx(2 * 512**3 / 0.2)
    took = iter([9.0, 0.1, 0.5, 0.2])
    assert bandwidth("cpu", repeats=3) == pytest.approx(3 * 2**27 / 0.1)


def test_the_rates_of_this_machine_are_plausible_and_draw_nothing():
    before = torch.get_rng_state()
    assert 1e8 < matmul_rate("cpu", repeats=2) < 1e15 and 1e7 < bandwidth("cpu", repeats=1) < 1e14
    assert torch.equal(before, torch.get_rng_state())


# ----------------------------------------------------------------------------------------------------------
# fused optimizers

FUSED = REPOSITORY / "experiments/parts/speed/fused.yaml"


def trained(root, *layers, steps=12):
    """Train, or go on, with these layers over the configuration; what was logged, and the checkpoint."""
    guard = {"class_path": "flowlit.callbacks.Gradients"}
    content = tiny.fit(
        root, "ReflowStudent", callbacks=[tiny.EMA, tiny.anneal(10), guard, tiny.checkpoints(6)], steps=steps
    )
    layers = [word for path in layers for word in ("-c", path)]
    outcome = in_process(
        "fit", "-c", tiny.write(root.with_suffix(".yaml"), content), *layers, "--resume", "auto"
    )
    assert outcome.code == 0, outcome.err
    return runs.logged(root)["train/loss"], torch.load(root / "checkpoints/last.ckpt", weights_only=True)


def assert_close(found, expected):
    (losses, checkpoint), (plain_losses, plain_checkpoint) = found, expected
    assert losses.keys() == plain_losses.keys() and losses == pytest.approx(plain_losses, rel=1e-5)
    for key, value in plain_checkpoint["state_dict"].items():
        torch.testing.assert_close(checkpoint["state_dict"][key], value, rtol=1e-4, atol=1e-6)


def is_fused(run):
    return run[1]["optimizer_states"][0]["param_groups"][0]["fused"]


def test_a_fused_optimizer_takes_the_same_steps_within_rounding(tmp_path):
    plain_run, fused_run = trained(tmp_path / "plain"), trained(tmp_path / "fused", FUSED)
    assert is_fused(fused_run) and not is_fused(plain_run) and len(plain_run[0]) == 12
    assert_close(fused_run, plain_run)


@pytest.mark.parametrize(("before", "after"), few([((), (FUSED,)), ((FUSED,), ())], 1))
def test_a_run_goes_on_with_and_without_a_fused_optimizer(tmp_path, before, after):
    expected = trained(tmp_path / "whole")
    assert bool(is_fused(trained(tmp_path / "run", *before, steps=6))) == bool(before)
    found = trained(tmp_path / "run", *after)
    assert bool(is_fused(found)) == bool(after) and found[1]["global_step"] == 12
    assert_close(found, expected)
