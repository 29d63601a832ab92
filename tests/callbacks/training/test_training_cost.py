"""What a training takes is counted at the calls of its networks, whole and once."""

import json

import games
import pytest
import tiny
import torch
from commandline import in_process
from forks import apart
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from flowlit.callbacks import EMA, Compile, Samples, TrainingCost
from flowlit.callbacks.training import training_cost
from flowlit.callbacks.training.counting import Clock
from flowlit.couplings import Independent, SeededNoise, Simulated
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.metrics.cost import count_flops
from flowlit.metrics.training_cost import COSTS, Evaluations, TrainingCosts
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import ClassifierFreeGuidance, UNet
from flowlit.objectives import Combined, Distillation, FlowGuided, RectifiedFlow
from flowlit.objectives.distances import FeatureDistance
from flowlit.objectives.flow_maps import Lagrangian, MeanFlow
from flowlit.solvers import Euler, Heun
from flowlit.types import Coupling, Objective, Pair

BATCH = 8


def noise(num=16):
    return SeededNoise(tiny.SHAPE, num, seed=1)


def fit(folder, objective, steps=3, coupling=None, callbacks=(), data=None, network=None, **arguments):
    """Train a small network; return what was counted."""
    module = FlowModule(network or tiny.Affine(), objective, solvers={"euler": Euler(1)})
    coupling = coupling or Independent(Digits(labels=False, limit=64))
    cost = TrainingCost()
    trainer = tiny.trainer(
        folder, steps, [cost, *callbacks], **{"logger": CSVLogger(folder, "", ""), **arguments}
    )
    trainer.fit(module, FlowDataModule(coupling, BATCH, noise(), **(data or {})))
    return cost.costs()


def counts(costs):
    return {
        name: (own.with_gradient, own.without_gradient)
        for name, own in costs.networks.items()
        if any((own.with_gradient, own.without_gradient))
    }


class Guided(nn.Module):
    """A velocity whose calls are three evaluations."""

    evaluations = 3

    def forward(self, x, t, cond={}):
        return x


class OwnObjective(Objective):
    """An objective of a user's own, which calls by keywords and has a teacher of its own."""

    def __init__(self):
        super().__init__()
        self.teacher = Frozen(tiny.Affine())

    def forward(self, velocity, pair):
        t = torch.zeros(len(pair.x0))
        with torch.no_grad():
            velocity(x=pair.x0, t=t)
        through = self.teacher(velocity(pair.x0, t), t)  # the gradient flows through it
        return {"loss": through.square().mean()}


STUDENT = {"network": (3 * BATCH, 0)}
OBJECTIVES = {
    "rectified flow": (RectifiedFlow, STUDENT),
    "distillation": (Distillation, STUDENT),
    "guided by the student's step": (
        lambda: FlowGuided(tiny.Affine()),
        STUDENT | {"guide": (0, 3 * BATCH)},
    ),
    "guided by the guide's step": (
        lambda: FlowGuided(tiny.Affine(), first_step="guide"),
        STUDENT | {"guide": (0, 6 * BATCH)},
    ),
    "both": (
        lambda: Combined({"a": Distillation(), "b": FlowGuided(Guided())}),
        {"network": (6 * BATCH, 0), "objectives.b.guide": (0, 9 * BATCH)},
    ),
    "a distance in features": (
        lambda: Distillation(FeatureDistance(nn.Sequential(nn.Conv2d(1, 2, 3)), ["0"])),
        STUDENT,
    ),
    "one's own": (OwnObjective, {"network": (3 * BATCH, 3 * BATCH), "teacher": (3 * BATCH, 0)}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_call_of_a_sample_is_one_evaluation(name, tmp_path):
    objective, expected = OBJECTIVES[name]
    costs = fit(tmp_path, objective(), limit_val_batches=0)
    assert counts(costs) == expected
    assert (costs.steps, costs.images, costs.devices, costs.first_step) == (3, 3 * BATCH, 1, 0)
    total = costs.evaluations()
    assert total.with_gradient == sum(each[0] for each in expected.values())
    assert total.without_gradient == sum(each[1] for each in expected.values())


def test_guidance_counts_as_it_does_for_nfe(tmp_path):
    guide = ClassifierFreeGuidance(UNet(8, 1, 8, (1, 2), 1, (), num_classes=10, label_dropout=0.1), 2.0)
    coupling = Independent(Digits(limit=64))
    network = UNet(8, 1, 8, (1, 2), 1, (), num_classes=10)
    module = FlowModule(network, FlowGuided(guide), solvers={"euler": Euler(1)})
    cost = TrainingCost()
    data = FlowDataModule(coupling, BATCH, SeededNoise(tiny.SHAPE, 8, num_classes=10))
    tiny.trainer(tmp_path, 2, [cost], limit_val_batches=0).fit(module, data)
    assert counts(cost.costs()) == {"network": (2 * BATCH, 0), "guide": (0, 2 * 2 * BATCH)}


def test_validation_and_samples_cost_nothing(tmp_path):
    objective = FlowGuided(tiny.Affine())
    quiet = fit(tmp_path / "a", objective, steps=4, limit_val_batches=0)
    validated = fit(
        tmp_path / "b",
        objective,
        steps=4,
        callbacks=[EMA(0.9), Samples(4), Validating(objective)],
        val_check_interval=1,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=2,
    )
    assert counts(validated) == counts(quiet)


class Validating(Callback):
    """Calls the objective in validation."""

    def __init__(self, objective):
        self.objective = objective

    def on_validation_batch_end(self, trainer, pl_module, *_):
        x = torch.zeros(4, *tiny.SHAPE)
        self.objective.guide(x, torch.zeros(4))
        pl_module.network(x, torch.zeros(4))


def test_a_teacher_that_makes_pairs_in_the_step_counts(tmp_path):
    coupling = Simulated(tiny.Affine(), Heun(3), noise(32))
    costs = fit(tmp_path, Distillation(), coupling=coupling, limit_val_batches=0)
    assert counts(costs) == STUDENT | {"coupling.teacher": (0, 3 * BATCH * 6)}
    assert coupling.teacher.observer is None


class Teachers(Objective):
    """An objective with several frozen networks, in a list and by name."""

    def __init__(self):
        super().__init__()
        self.teachers = [Frozen(tiny.Affine()), Frozen(tiny.Affine())]
        self.by_name = {"fine": Frozen(tiny.Affine())}

    def forward(self, velocity, pair):
        t = torch.zeros(len(pair.x0))
        for teacher in (*self.teachers, *self.by_name.values()):
            teacher(pair.x0, t)
        return {"loss": velocity(pair.x0, t).square().mean()}


class Around(Coupling):
    """A coupling that takes its pairs from another."""

    simulates = True

    def __init__(self, inner):
        self.inner = inner

    def dataset(self):
        return self.inner.dataset()

    def complete(self, batch, device):
        return self.inner.complete(batch, device)


def test_frozen_networks_are_found_in_lists_mappings_and_couplings_of_couplings(tmp_path):
    coupling = Around(Simulated(tiny.Affine(), Heun(3), noise(32)))
    costs = fit(tmp_path, Teachers(), coupling=coupling, limit_val_batches=0)
    own = dict.fromkeys(("teachers.0", "teachers.1", "by_name.fine"), (0, 3 * BATCH))
    assert counts(costs) == STUDENT | own | {"coupling.inner.teacher": (0, 3 * BATCH * 6)}


def test_batches_in_parts_are_counted_whole(tmp_path):
    costs = fit(tmp_path, RectifiedFlow(), data={"device_batch_size": 2}, limit_val_batches=0)
    assert counts(costs) == STUDENT and (costs.steps, costs.images) == (3, 3 * BATCH)


def test_a_critic_is_counted_beside_the_generator(tmp_path):
    content = games.duel(tmp_path, updates=2, steps=3)
    content["trainer"]["callbacks"] = [{"class_path": "flowlit.callbacks.TrainingCost"}]
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert outcome.code == 0, outcome.err
    costs = read(tmp_path)
    # of three updates in a step one is the generator's, whose gradient flows through the critic
    assert counts(costs) == {"network": (3 * BATCH, 2 * 3 * BATCH), "critic": (5 * 3 * BATCH, 0)}
    assert (costs.steps, costs.images) == (3, 9 * BATCH)


def read(folder):
    path = folder / "training_cost.json"
    return COSTS.check(COSTS.read(path), path)


def run(folder, *words, steps=6, **arguments):
    cost = {"class_path": "flowlit.callbacks.TrainingCost"}
    content = tiny.fit(folder, callbacks=[cost, tiny.EMA, tiny.checkpoints(2)], steps=steps, **arguments)
    return in_process("fit", "-c", tiny.write(folder.with_suffix(".yaml"), content), *words)


def test_an_interrupted_run_counts_as_one_that_was_not(tmp_path):
    assert run(tmp_path / "whole").code == 0
    assert run(tmp_path / "parts", steps=4).code == 0
    half = read(tmp_path / "parts")
    assert (half.steps, half.images) == (4, 4 * BATCH)
    assert run(tmp_path / "parts", "--resume", "auto").code == 0
    whole, parts = (read(tmp_path / name) for name in ("whole", "parts"))
    assert counts(parts) == counts(whole) == {"network": (6 * BATCH, 0)}
    assert (parts.steps, parts.images) == (whole.steps, whole.images) == (6, 6 * BATCH)
    assert parts.seconds > half.seconds and parts.processor_seconds > half.processor_seconds


def test_the_counts_of_a_checkpoint_are_those_of_its_step(tmp_path):
    assert run(tmp_path / "run").code == 0
    states = [
        torch.load(path, weights_only=True)["callbacks"]["TrainingCost"]
        for path in sorted((tmp_path / "run/checkpoints").glob("*.ckpt"))
    ]
    assert {state["steps"] for state in states} == {4, 6}
    assert all(state["networks"]["network"]["with_gradient"] == state["steps"] * BATCH for state in states)


def test_a_checkpoint_without_counts_is_said(tmp_path):
    content = tiny.fit(tmp_path / "run", steps=4)
    assert in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content)).code == 0
    outcome = run(tmp_path / "run", "--resume", "auto")
    assert "the checkpoint has no counts; they begin at step 4" in outcome.err
    costs = read(tmp_path / "run")
    assert (costs.first_step, costs.steps, costs.images) == (4, 2, 2 * BATCH)


def test_a_fit_that_begins_afresh_puts_the_counts_aside(tmp_path):
    assert run(tmp_path / "run").code == 0
    assert run(tmp_path / "run", steps=2).code == 0
    assert read(tmp_path / "run").steps == 2
    assert read(tmp_path / "run/earlier/1").steps == 6


class Fail(Callback):
    """Fails within a step."""

    def on_before_backward(self, *_):
        raise FlowlitError("here")


def test_networks_are_left_as_they_were(tmp_path):
    network = tiny.Affine()
    guide = tiny.Affine()
    fit(tmp_path / "a", FlowGuided(guide), network=network, limit_val_batches=0)
    objective = FlowGuided(guide)
    with pytest.raises(FlowlitError, match="here"):
        fit(tmp_path / "b", objective, network=network, callbacks=[Fail()], limit_val_batches=0)
    assert network._compiled_call_impl is None and objective.guide.observer is None


def test_a_compiled_network_is_counted_around_what_was_compiled(tmp_path):
    network = tiny.Affine()
    called = []

    def compiled(*args, **kwargs):
        called.append(len(args[0]))
        return network._call_impl(*args, **kwargs)

    network._compiled_call_impl = compiled
    costs = fit(tmp_path, RectifiedFlow(), network=network, limit_val_batches=0)
    assert counts(costs) == STUDENT
    assert sum(called) == 3 * BATCH and network._compiled_call_impl is compiled


@pytest.mark.slow
def test_the_compiler_sees_no_counting(tmp_path):
    costs = fit(tmp_path, FlowGuided(tiny.Affine()), callbacks=[Compile()], steps=4, limit_val_batches=0)
    assert counts(costs) == {"network": (4 * BATCH, 0), "guide": (0, 4 * BATCH)}


def test_counting_the_operations_of_a_loss_counts_no_evaluations():
    objective = FlowGuided(tiny.Affine())
    objective.guide.observer = lambda *_: pytest.fail("counted")
    x = torch.zeros(2, *tiny.SHAPE)
    count_flops(lambda objective, network: objective(network, Pair(x, x))["loss"], objective, tiny.Affine())


def test_what_is_logged_is_what_was_counted(tmp_path):
    costs = fit(tmp_path, FlowGuided(tiny.Affine()), steps=4, limit_val_batches=0, log_every_n_steps=2)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    last = dict(zip(header, lines[-1].split(","), strict=True))
    assert float(last["cost/evaluations_with_gradient"]) == costs.evaluations().with_gradient == 4 * BATCH
    assert float(last["cost/evaluations_without_gradient"]) == 4 * BATCH
    assert float(last["cost/images"]) == 4 * BATCH and float(last["cost/seconds"]) > 0


def test_nothing_is_written_where_nothing_is_logged(tmp_path):
    fit(tmp_path, RectifiedFlow(), logger=False, limit_val_batches=0)
    assert not list(tmp_path.glob("**/training_cost.json"))


def test_all_ranks_are_added_up_and_time_is_that_of_one(monkeypatch):
    cost = TrainingCost()
    cost._before = TrainingCosts(4, 32, {"network": Evaluations(32, 0)}, 10.0, 20.0, first_step=2)
    cost._own = TrainingCosts(2, 8, {"network": Evaluations(8, 1), "guide": Evaluations(0, 8)})
    cost._clock.seconds = 3.0
    cost._clock.processor_seconds = 4.0
    monkeypatch.setattr(training_cost, "gathered_objects", lambda own: [own, own])
    total = cost.costs()
    assert counts(total) == {"network": (48, 2), "guide": (0, 16)}
    assert (total.steps, total.images, total.devices, total.first_step) == (6, 48, 2, 2)
    assert (total.seconds, total.processor_seconds) == (13.0, 28.0)


def test_going_back_does_not_take_back_what_was_spent():
    cost = TrainingCost()
    cost._own = TrainingCosts(5, 40, {"network": Evaluations(40, 0)})
    cost.load_state_dict(json.loads(json.dumps({"steps": 2, "images": 16})))
    assert cost.costs().steps == 5


def test_a_damaged_state_is_refused():
    with pytest.raises(FlowlitError, match="record of a training's cost"):
        TrainingCost().load_state_dict({"steps": -1})


def test_the_clock_stands_still_while_it_is_stopped(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("flowlit.callbacks.training.counting.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("flowlit.callbacks.training.counting.time.process_time", lambda: 2 * now[0])
    clock = Clock()
    for start, end in ((1, 2), (5, 9)):
        now[0] = start
        clock.start()
        clock.start()
        now[0] = end
        assert clock.read()[0] == (1 if end == 2 else 5)
        clock.stop()
        clock.stop()
    assert (clock.seconds, clock.processor_seconds) == (5, 10)


def fit_in_two_processes(folder):
    fit(folder, FlowGuided(tiny.Affine()), limit_val_batches=0, devices=2, strategy="ddp_fork")


@pytest.mark.slow
def test_two_processes_count_as_one(tmp_path):
    apart(fit_in_two_processes, tmp_path)
    costs = read(tmp_path)
    assert counts(costs) == {"network": (3 * BATCH, 0), "guide": (0, 3 * BATCH)}
    assert (costs.steps, costs.images, costs.devices) == (3, 3 * BATCH, 2)


def test_a_forward_derivative_counts_as_two_evaluations(tmp_path):
    """Also where the network's own gradient goes through it."""

    def counted(objective):
        network = UNet(8, 1, 8, (1,), 1, (), 0.0, time_scale=1.0, second_time=True)
        return fit(tmp_path / type(objective).__name__, objective, 1, network=network).networks["network"]

    assert counted(MeanFlow()) == Evaluations(BATCH, 2 * BATCH)
    assert counted(Lagrangian()) == Evaluations(2 * BATCH, BATCH)
