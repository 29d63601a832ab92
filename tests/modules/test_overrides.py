"""Learning rates of a run that goes on with other settings: those of a run that had them from the start."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from flowlit._engine.loops import scale_learning_rate
from flowlit.errors import FlowlitError
from flowlit.modules.overrides import override
from flowlit.schedules import WarmUp

CHANGES = {
    "StepLR": (lambda o: StepLR(o, 3), lambda o: StepLR(o, 4, 0.5)),
    "MultiStepLR": (lambda o: MultiStepLR(o, [2, 8]), lambda o: MultiStepLR(o, [4, 5, 11], 0.3)),
    "ConstantLR": (lambda o: ConstantLR(o, 0.5, 3), lambda o: ConstantLR(o, 0.25, 9)),
    "LinearLR": (lambda o: LinearLR(o, 0.1, 1.0, 4), lambda o: LinearLR(o, 0.2, 0.7, 12)),
    "ExponentialLR": (lambda o: ExponentialLR(o, 0.5), lambda o: ExponentialLR(o, 0.9)),
    "PolynomialLR": (lambda o: PolynomialLR(o, 4), lambda o: PolynomialLR(o, 14, 2.0)),
    "CosineAnnealingLR": (lambda o: CosineAnnealingLR(o, 4), lambda o: CosineAnnealingLR(o, 12, 0.001)),
    "CosineAnnealingWarmRestarts": (
        lambda o: CosineAnnealingWarmRestarts(o, 3, 2),
        lambda o: CosineAnnealingWarmRestarts(o, 5),
    ),
    "CyclicLR": (
        lambda o: CyclicLR(o, 0.01, 0.1, 2),
        lambda o: CyclicLR(o, 0.02, 0.3, 3, 4, "exp_range", 0.9, base_momentum=0.7, max_momentum=0.8),
    ),
    "OneCycleLR": (lambda o: OneCycleLR(o, 0.1, 20), lambda o: OneCycleLR(o, 0.4, 30, 0.5, "linear")),
    "LambdaLR": (lambda o: LambdaLR(o, lambda s: 1 / (1 + s)), lambda o: LambdaLR(o, lambda s: 0.9**s)),
    "WarmUp": (lambda o: WarmUp(o, 20), lambda o: WarmUp(o, 4, 18, 0.1)),
    "MultiplicativeLR": (
        lambda o: MultiplicativeLR(o, lambda s: 0.9),
        lambda o: MultiplicativeLR(o, lambda s: 1 - 1 / (s + 2)),
    ),
    "SequentialLR": (
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1.0, 4), ExponentialLR(o, 0.9)], [4]),
        lambda o: SequentialLR(o, [LinearLR(o, 0.2, 1.0, 8), CosineAnnealingLR(o, 10)], [8]),
    ),
    "ChainedScheduler": (
        lambda o: ChainedScheduler([ConstantLR(o, 0.1, 4), ExponentialLR(o, 0.9)], optimizer=o),
        lambda o: ChainedScheduler([ConstantLR(o, 0.3, 9), ExponentialLR(o, 0.8)], optimizer=o),
    ),
    "another class": (lambda o: StepLR(o, 3), lambda o: OneCycleLR(o, 0.1, 20)),
    "added": (None, lambda o: WarmUp(o, 10, 20)),
    "taken away": (lambda o: OneCycleLR(o, 0.1, 20), None),
}
UNSEEN = ("LambdaLR", "WarmUp", "MultiplicativeLR")
"""Functions, which leave nothing in a scheduler's state: only a configuration shows that they changed."""

STATES = ("optimizer_states", "lr_schedulers")
MOVED = ("lr", "momentum", "betas", "initial_lr")


def player(make, lr=0.1, optimizer=SGD):
    network = torch.nn.Linear(2, 2)
    more = {"momentum": 0.9} if optimizer is SGD else {}
    return SimpleNamespace(
        network=network, make_optimizer=lambda p: optimizer(p, lr=lr, **more), make_scheduler=make
    )


def start(player):
    optimizer = player.make_optimizer(player.network.parameters())
    return optimizer, player.make_scheduler and player.make_scheduler(optimizer)


def step(player, optimizer, scheduler):
    player.network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    if scheduler:
        scheduler.step()


def saved(player, steps):
    optimizer, scheduler = start(player)
    for _ in range(steps):
        step(player, optimizer, scheduler)
    schedulers = [deepcopy(scheduler.state_dict())] if scheduler else []
    states = [deepcopy(optimizer.state_dict())]
    return {"global_step": steps, "optimizer_states": states, "lr_schedulers": schedulers, "callbacks": {}}


def curve(player, steps, checkpoint=None):
    """What a scheduler may move, at each step."""
    optimizer, scheduler = start(player)
    if checkpoint:
        optimizer.load_state_dict(deepcopy(checkpoint["optimizer_states"][0]))
        assert len(checkpoint["lr_schedulers"]) == (scheduler is not None)
        if scheduler:
            scheduler.load_state_dict(deepcopy(checkpoint["lr_schedulers"][0]))
    found = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append({key: group[key] for key in MOVED if key in group})
        step(player, optimizer, scheduler)
    return found


def described(name, lr=0.1):
    scheduler = {"class_path": name, "init_args": {}} if name else None
    return {
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}},
        "lr_scheduler": scheduler,
    }


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_schedules_follow_the_curve_of_a_fresh_run(name, optimizer):
    """Cosines had a rate of 0 for good, cycles the length of before; the first step always the old rate."""
    old, new = (player(make, optimizer=optimizer) for make in CHANGES[name])
    checkpoint = saved(old, 6)
    before = described(old.make_scheduler and "before")
    override(checkpoint, [new], [before], [described(new.make_scheduler and "now")])
    assert curve(new, 8, checkpoint) == curve(new, 14)[6:]
    assert checkpoint["optimizer_states"][0]["state"], "the moments stay"


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in UNSEEN])
def test_changes_are_seen_in_python_too(name):
    """There, no configuration shows that a scheduler is another one."""
    old, new = map(player, CHANGES[name])
    checkpoint = saved(old, 6)
    override(checkpoint, [new], [{}], [{}])
    assert curve(new, 8, checkpoint) == curve(new, 14)[6:]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_without_a_change_everything_saved_stays(name, known):
    old = player(CHANGES[name][0])
    checkpoint = saved(old, 6)
    groups = deepcopy(checkpoint["optimizer_states"][0]["param_groups"])
    schedulers = [dict(state) for state in checkpoint["lr_schedulers"]]
    configuration = described(old.make_scheduler and "same") if known else {}
    override(checkpoint, [old], [configuration], [configuration])
    assert checkpoint["optimizer_states"][0]["param_groups"] == groups
    assert checkpoint["lr_schedulers"] == schedulers


@pytest.mark.parametrize("name", CHANGES)
def test_another_rate_of_the_optimizer_is_that_of_a_fresh_run(name):
    """It was scaled, also where a scheduler takes its rates from elsewhere."""
    old, new = player(CHANGES[name][1], 0.1), player(CHANGES[name][1], 0.025)
    checkpoint = saved(old, 6)
    scheduler = old.make_scheduler and "same"
    override(checkpoint, [new], [described(scheduler)], [described(scheduler, 0.025)])
    assert curve(new, 8, checkpoint) == curve(new, 14)[6:]


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_rollback_lowered_stays_lowered(name):
    old, new = map(player, CHANGES[name])
    checkpoint = saved(old, 6)
    scale_learning_rate(checkpoint, 0.5)
    checkpoint["callbacks"] = {"Rollback": {"lowered": 0.5}, "Other": {}}
    before = described(old.make_scheduler and "before")
    override(checkpoint, [new], [before], [described(new.make_scheduler and "now")])
    rates = [group["lr"] for group in curve(new, 8, checkpoint)]
    assert rates == pytest.approx([group["lr"] / 2 for group in curve(new, 14)[6:]])


def test_a_cycle_that_ends_before_the_run_is_refused():
    old, new = player(None), player(lambda o: OneCycleLR(o, 0.1, 5))
    with pytest.raises(FlowlitError, match=r"OneCycleLR cannot go on from step 6: .*steps is 5"):
        override(saved(old, 6), [new], [described(None)], [described("now")])


def test_a_schedule_that_follows_a_metric_is_refused():
    new = player(ReduceLROnPlateau)
    with pytest.raises(FlowlitError, match="ReduceLROnPlateau follows a metric"):
        override(saved(player(None), 2), [new], [described(None)], [described("now")])


def test_of_two_networks_one_may_change_its_schedule():
    """The critic, which is updated twice a step."""
    generator = player(lambda o: StepLR(o, 4))
    before, now = player(lambda o: StepLR(o, 3)), player(lambda o: CosineAnnealingLR(o, 30))
    first, second = saved(generator, 6), saved(before, 12)
    whole = {**first, **{key: first[key] + second[key] for key in STATES}}
    critics = [{**described(name), "updates": 2} for name in ("before", "now")]
    override(whole, [generator, now], [described("same"), critics[0]], [described("same"), critics[1]])
    one, other = ({**whole, **{key: whole[key][i : i + 1] for key in STATES}} for i in (0, 1))
    assert curve(generator, 8, one) == curve(generator, 14)[6:]
    assert curve(now, 8, other) == curve(now, 20)[12:]


@pytest.mark.parametrize(
    ("step", "updates", "words"),
    [(10**9, 1, "step 1,000,000,000"), (10, 10**9, "expected at most"), (1, "2", "updates is '2'")],
)
def test_a_scheduler_is_not_stepped_for_hours(step, updates, words):
    content = {**saved(player(lambda o: StepLR(o, 3)), 6), "global_step": step}
    before, now = ({**described(name), "updates": updates} for name in ("before", "now"))
    with pytest.raises(FlowlitError, match=words):
        override(content, [player(lambda o: StepLR(o, 4))], [before], [now])
