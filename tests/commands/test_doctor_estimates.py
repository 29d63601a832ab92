"""flowlit doctor: times and estimates follow from what was measured and counted."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from help_texts import help_of
from tools import tiny_unet

from flowlit import commands
from flowlit._support.batch_invariance import BLOCK
from flowlit.callbacks import MatmulPrecision
from flowlit.commands.doctor import checks, examine, measure
from flowlit.commands.doctor.gpus import FRACTION, GPUS, LAUNCH, estimates, numbers_of, read_gpus, seconds_on
from flowlit.commands.doctor.measured import Made, Step, Work
from flowlit.commands.doctor.subject import Subject
from flowlit.commands.doctor.times import seconds_of, timings
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics.cost import count_macs
from flowlit.modules import FlowDataModule, Teacher
from flowlit.solvers import Euler


@pytest.fixture
def subject(tmp_path):
    """A training of 1,000 steps of 8 samples and five validations of 100 images, in these settings."""

    def make(callbacks=(), **settings):
        trainer = tiny.trainer(tmp_path, 1000, callbacks, **settings)
        data = FlowDataModule(Independent(Digits(labels=False)), 8, SeededNoise(tiny.SHAPE, 100))
        return Subject(trainer, SimpleNamespace(), data, steps=1000, validations=5, share=8)

    return make


# generation


@pytest.mark.parametrize(("samples", "batch"), [(16, 16), (2, 2), (2, 16), (16, 20), (48, 1000)])
def test_two_samples_take_as_long_as_the_block_that_they_are_padded_to(samples, batch):
    """Of 2 samples the time was an eighth of 16 padded ones, and each seemed eight times as slow."""
    a_row = 0.25
    padded = -(-samples // BLOCK) * BLOCK
    timed = Made(samples, padded * a_row, 1.0, batch)
    assert timed.each * batch == pytest.approx(-(-batch // BLOCK) * BLOCK * a_row)


def test_generation_is_timed_at_whole_blocks_or_at_the_batch_of_the_run(tmp_path, monkeypatch):
    seen = []
    generated = measure.generated

    def watched(subject, patient, name, samples):
        seen.append(samples)
        return generated(subject, patient, name, samples)

    monkeypatch.setattr(measure, "generated", watched)
    for num, slow, expected in ((40, False, [16, 40]), (5, False, [5]), (40, True, [16])):
        monkeypatch.setattr(measure, "BUDGET", 0.0 if slow else 1e3)
        seen.clear()
        torch.manual_seed(0)
        module = Teacher(tiny_unet(), solvers={"euler2": Euler(2)})
        data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, num))
        examine(tiny.trainer(tmp_path, limit_val_batches=1), module, data)
        assert seen == expected


# a run


def test_times_of_a_run_are_sums(subject):
    s = subject()
    s.measured.step = Step(4, 0.5, 0.1)
    s.measured.made = {"euler1": Made(16, 0.16, 1.0, 100)}
    step, pairs, images = timings(s)
    assert step.each == pytest.approx(1.0) and step.all == pytest.approx(1000)
    assert pairs.all == pytest.approx(200) and pairs.within == step.what
    assert images.all == pytest.approx(5 * 112 * 0.01), "100 images are padded to 112"
    assert seconds_of(s) == pytest.approx(step.all + images.all)


def test_more_than_thirty_days_are_warned_of_with_the_ways_out(subject):
    s = subject()
    for days, found in ((29, []), (31, ["warning"])):
        s.measured.step = Step(8, days * 86.4, 0.0)
        findings = list(checks.resources.too_long(s))
        assert [finding.level for finding in findings] == found
    (finding,) = findings
    assert "31.0 days" in finding.what
    for way in ("--for a10g,4090,h100", "bf16-mixed", "smaller network", "--trainer.max_steps"):
        assert way in finding.mend


def test_ways_out_are_none_that_were_taken(subject):
    ways = " ".join(checks.resources.ways_out(subject(precision="bf16-mixed")))
    assert "bf16" not in ways


# GPUs


def test_an_estimate_is_counted_work_over_a_fraction_of_the_peak(subject):
    s = subject(precision="bf16-mixed")
    s.measured.step = Step(8, 1.0, 0.0)
    s.measured.trained = Work(1e12, 0.0)
    s.measured.made = {"euler2": Made(100, 1.0, 2.0, 100)}
    s.measured.evaluated = Work(3e9, 0.0)
    (_, training), (_, images) = seconds_on(s, "h100")
    assert training == pytest.approx(1000 * 8 * 1e12 / (0.2 * 989.4e12))
    assert images == pytest.approx(5 * 100 * 2 * 3e9 / (0.2 * 989.4e12))
    assert seconds_on(s, "t4")[0][1] == pytest.approx(8e15 / (FRACTION["float32"] * 8.1e12)), "no bfloat16"


def test_small_networks_wait_for_their_launches(subject):
    s = subject()
    s.measured.step = Step(8, 1.0, 0.0)
    s.measured.trained = Work(1.0, 3000)
    for gpu in GPUS:
        assert seconds_on(s, gpu)[0][1] == pytest.approx(1000 * 3000 * LAUNCH)


def test_memory_that_is_too_little_is_said(subject):
    s = subject()
    s.gpus = ("4090", "h100")
    s.measured.step = Step(8, 1.0, 0.0)
    s.measured.trained = Work(1.0, 1.0)
    s.measured.optimizer = 30 * 2**30
    s.measured.activations = SimpleNamespace(slope=0, intercept=0)
    assert estimates(s)[-1] == ["memory, 32 GB needed", "24 GB: too little", "80 GB"]


@pytest.mark.parametrize("devices", [2, 4])
def test_several_gpus_divide_the_time_and_not_the_memory(devices, subject):
    """A batch of 8 in shares; small networks make as many launches on each device as on one."""
    times, memories, launches = [], [], []
    for number in (1, devices):
        s = subject(devices=number, strategy="ddp" if number > 1 else "auto")
        s.gpus = ("a10g",)
        s.share = 8 // number
        s.measured.step = Step(s.share, 1.0, 0.0)
        s.measured.made = {"euler2": Made(100, 1.0, 2.0, 100)}
        s.measured.trained, s.measured.evaluated = Work(1e15, 0.0), Work(1e13, 0.0)
        s.measured.optimizer = s.measured.weights = 2**30
        s.measured.activations = SimpleNamespace(slope=2**20, intercept=0)
        times.append([seconds for _, seconds in seconds_on(s, "a10g")])
        memories.append(s.measured.memory(s.share))
        head, *_, memory = estimates(s)
        assert head[0] == f"estimate for {f'{number} GPUs' if number > 1 else 'one GPU'}"
        assert memory[1] == "24 GB"
        s.measured.trained = Work(1.0, 3000)
        launches.append(seconds_on(s, "a10g")[0][1])
    assert times[1] == pytest.approx([seconds / devices for seconds in times[0]])
    assert memories[0] - memories[1] == (8 - 8 // devices) * 2**20, "a smaller share of the batch"
    assert launches[1] == pytest.approx(launches[0])


def test_what_was_not_counted_has_a_dash(subject):
    s = subject()
    s.gpus = ("a10g",)
    s.measured.step = Step(8, 1.0, 0.0)
    assert estimates(s)[1:] == [["training step", "–"], ["all", "–"]]


@pytest.mark.parametrize(
    ("precision", "products", "numbers"),
    [
        ("32-true", None, "TF32"),
        ("32-true", "highest", "float32"),
        ("32-true", "high", "TF32"),
        ("16-mixed", None, "float16"),
        ("bf16-true", "highest", "bfloat16"),
        ("64-true", None, None),
    ],
)
def test_the_numbers_that_a_gpu_would_multiply(precision, products, numbers, subject):
    s = subject()
    callbacks = [] if products is None else [MatmulPrecision(products)]
    s.trainer = SimpleNamespace(precision=precision, callbacks=callbacks)
    assert numbers_of(s) == numbers


def test_the_work_of_a_step_is_three_times_that_of_an_evaluation(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "CHECKS", [lambda subject: seen.append(subject) or ()])
    torch.manual_seed(0)
    module = Teacher(tiny_unet(), solvers={"euler2": Euler(2)})
    data = FlowDataModule(Independent(Digits(labels=False)), 8, SeededNoise(tiny.SHAPE, 8), seed=3)
    report = examine(tiny.trainer(tmp_path, limit_val_batches=1), module, data, gpus=("a10g",))
    measured = seen[0].measured
    assert measured.evaluated.flops == 2 * count_macs(tiny_unet()).all
    assert 2.8 < measured.trained.flops / measured.evaluated.flops <= 3, (
        "the first layer needs no gradient of x"
    )
    assert measured.trained.launches > 2 * measured.evaluated.launches > 100
    assert "a10g" in report.text and "an estimate, not a measurement" in report.text


def test_peaks_are_dense_and_ordered():
    for name, gpu in GPUS.items():
        assert gpu.half >= gpu.tf32 and gpu.half > gpu.float32 > 0 and gpu.memory >= 16, name


def test_names_of_gpus_are_read_as_people_write_them():
    assert read_gpus("A10G,RTX 4090, rtx_3090,h100,H100") == ("a10g", "4090", "3090", "h100")
    with pytest.raises(FlowlitError, match="no figures of a GPU 'x'; there are those of t4, "):
        read_gpus("a10g,x")


def test_the_help_has_the_options_that_only_doctor_has():
    text = help_of("doctor")
    assert "--trust" in text and "--for GPU" in text and "h200" in text
    assert commands.COMMANDS["doctor"].run.endswith(":main")
