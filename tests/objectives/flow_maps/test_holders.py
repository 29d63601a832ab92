"""Objectives of flow maps: what they demand of a network, draw alike in every call, and log."""

import logging
import math

import pytest
import tiny
import torch
from flow_maps import GUIDE, OBJECTIVES, guided_student, student
from gaussian_map import GaussianMap
from tools import randomise, tiny_unet
from torch import nn

from flowlit import rng
from flowlit.callbacks import Anneal
from flowlit.errors import FlowlitError
from flowlit.modules import FlowModule
from flowlit.networks import GuidanceInput
from flowlit.objectives import Combined
from flowlit.objectives.distances import SquaredError
from flowlit.objectives.flow_maps import (
    Consistency,
    ImprovedMeanFlow,
    Lagrangian,
    MeanFlow,
    OnTrajectories,
    Splitting,
    VelocityDistillation,
    guided_target,
    own_guided_target,
    splitting_loss,
)
from flowlit.objectives.flow_maps.improved import drawn_guidance
from flowlit.objectives.intervals import FromNoise, Ordered, ToData
from flowlit.objectives.times import Fixed, Uniform
from flowlit.schedules import Geometric, Sigmoid
from flowlit.solvers import Euler, Heun, Jumps
from flowlit.types import Pair


def pair(rows=6, **cond):
    x0, x1 = torch.randn(2, rows, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    return Pair(x0, x1, cond)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_trains_the_network_and_no_guide(name):
    objective = OBJECTIVES[name]()
    network = student().train()
    torch.manual_seed(0)
    parts = objective(network, pair())
    assert all(value.shape == () and torch.isfinite(value) for value in parts.values())
    parts["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert all(p.grad is None for p in GUIDE.parameters()) and not objective.state_dict()
    assert not parts["error"].requires_grad


class Watching(nn.Module):
    """A network that keeps the masks of its dropout, and which labels it hid."""

    reads = frozenset({"label", "r"})
    num_classes = 3
    label_dropout = 0.5

    def __init__(self, guided=False):
        super().__init__()
        inside = student(dropout=0.5, num_classes=3, label_dropout=0.5)
        self.network = GuidanceInput(inside) if guided else inside
        inside = self.network.network if guided else inside  # a copy
        self.masks = []
        self.labels = []
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(lambda m, i, o: self.masks.append(self.plain(o) == 0))
        inside.label.table.register_forward_hook(lambda m, i, o: self.labels.append(i[0]))

    @staticmethod
    def plain(value):
        while torch._C._functorch.is_gradtrackingtensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        return value.detach()

    def forward(self, x, t, cond={}):
        return self.network(x, t, cond)


APART = Ordered(Uniform(), equal=0.0)
LABELLED = randomise(tiny_unet(multipliers=(1,), attention_resolutions=(), num_classes=3), scale=0.1)
SEVERAL_CALLS = {
    "jvp": MeanFlow(APART),
    "central": MeanFlow(APART, derivative="central", tangent="self"),
    "forward": MeanFlow(APART, guide=LABELLED, derivative="forward"),
    "guided": MeanFlow(APART, guidance=2.0, kappa=0.5),
    "improved": ImprovedMeanFlow(APART),
    "splitting": Splitting(APART),
    "splitting, guide": Splitting(APART, guide=LABELLED, first="guide"),
    "lagrangian": Lagrangian(APART, derivative="central"),
    "lagrangian, jvp": Lagrangian(APART),
    "consistency": Consistency(),
    "consistency, guide": Consistency(guide=LABELLED),
    "trajectories": OnTrajectories(LABELLED, Heun(2), draws=2),
    "velocity distillation": VelocityDistillation(LABELLED),
}


@pytest.mark.parametrize("name", SEVERAL_CALLS)
def test_dropout_and_hidden_labels_are_the_same_in_every_call_of_a_step(name):
    """But where guidance leaves all labels out."""
    objective = SEVERAL_CALLS[name]
    network = Watching(guided=name == "improved").train()
    torch.manual_seed(1)
    data = pair(8, label=torch.arange(8) % 3)
    objective(network, data)["loss"].backward()
    labelled = [labels for labels in network.labels if not bool((labels == 3).all())]
    free = len(network.labels) - len(labelled)
    assert free == (1 if name in ("guided", "improved") else 0)
    first = labelled[0]
    assert len(labelled) > 1 and all(torch.equal(labels, first) for labels in labelled)
    assert 0 < int((first == 3).sum()) < 8
    layers = len(network.masks) // len(network.labels)
    for i, mask in enumerate(network.masks):
        expected = network.masks[i % layers]
        assert float((mask == expected).float().mean()) > 0.99  # an activation may be 0 by itself
    torch.manual_seed(2)
    network.labels.clear()
    objective(network, data)
    assert not any(torch.equal(labels, first) for labels in network.labels), "and others in another step"


def test_draws_of_intervals_are_those_of_the_whole_batch():
    """Two devices draw what one does, so that their gradients are its gradient."""
    objective = MeanFlow(Ordered(Uniform()))
    network = student().eval()
    data = pair(6)

    def gradient(rows, share):
        rng.begin(share)
        network.zero_grad()
        objective(network, Pair(data.x0[rows], data.x1[rows]))["loss"].backward()
        rng.begin(None)
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    one = gradient(slice(None), rng.Share(7, 6, 6))
    two = [gradient(slice(i, None, 2), rng.Share(7, 6, 3, first=i, stride=2)) for i in (0, 1)]
    torch.testing.assert_close((two[0] + two[1]) / 2, one, rtol=1e-4, atol=1e-6)


def test_it_is_added_to_others():
    """Beside a regression onto the ends of pairs, which is a jump of the data from end to end."""
    pairs = Splitting(FromNoise(Fixed(1.0)), first="data", split=1.0)
    parts = {"map": Lagrangian(guide=GUIDE, derivative="forward"), "pairs": pairs}
    combined = Combined(parts, {"pairs": 0.5})
    module = FlowModule(student(), combined, solvers={"jumps": Jumps(1)})
    losses = combined(module.network, pair())
    torch.testing.assert_close(losses["loss"], losses["map"] + 0.5 * losses["pairs"])
    data = pair()
    ones = torch.ones(6)
    u = module.network(data.x0, 0 * ones, {"r": ones})
    torch.testing.assert_close(losses["pairs"], (u - (data.x1 - data.x0)).square().mean())


# demands


@pytest.mark.parametrize("make", [MeanFlow, Splitting, Lagrangian], ids=lambda make: make.__name__)
def test_a_network_of_one_time_is_refused_unless_all_intervals_end_at_the_data(make):
    one = tiny_unet(time_scale=1.0)
    with pytest.raises(FlowlitError, match=rf"{make.__name__} .* UNet has no second time; .*: true"):
        FlowModule(one, make())
    with pytest.raises(FlowlitError, match="no second time"):
        FlowModule(one, Combined({"a": make()}))
    with pytest.raises(FlowlitError, match="ImprovedMeanFlow trains a flow map"):
        FlowModule(one, ImprovedMeanFlow())
    module = FlowModule(one, make(ToData()))
    assert not module.trains_flow and torch.isfinite(module.objective(one, pair())["loss"])
    assert FlowModule(student(), make()).trains_flow


@pytest.mark.parametrize("name", OBJECTIVES)
def test_intervals_that_are_none_are_refused_by_each_before_a_step(name):
    objective = OBJECTIVES[name]()
    objective.intervals = ToData(lambda n, device: torch.full((n,), -0.5))
    with pytest.raises(
        FlowlitError, match=rf"^{type(objective).__name__}: .*from -0.5 to 1; expected 0 <= t"
    ):
        FlowModule(student(), Combined({"it": objective}))


def test_a_clock_of_ripple_is_warned_of_where_time_is_differentiated(caplog):
    with caplog.at_level(logging.WARNING, logger="flowlit"):
        FlowModule(student(time_scale=999.0), Lagrangian())
        FlowModule(student(), MeanFlow())
        assert not caplog.text
        FlowModule(student(time_scale=999.0), MeanFlow())
    assert "time_scale is 999" in caplog.text and "--clock 1" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Splitting(guide=GUIDE), "a guide, with first: self and second: self"),
        (lambda: Splitting(first="guide"), "no guide, with first: guide"),
        (lambda: MeanFlow(guide=GUIDE, guidance=2.0), "guide the guide itself"),
        (lambda: MeanFlow(guidance=2.0)(student(), pair()), "guidance needs labels"),
        (lambda: Sigmoid(5, 5), "expected begin < end"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()


# guidance


def test_guidance_in_the_target_has_the_guided_velocity_as_its_fixed_point():
    """v = ω v_c + κ u_c + (1 - ω - κ) u_∅ at u_c = v: v = v_∅ + guidance · (v_c - v_∅) with v_∅ fixed."""

    class Labelled(nn.Module):
        values = torch.tensor([3.0, 1.0], dtype=torch.float64)  # of the label, and of none

        def forward(self, x, t, cond={}):
            return torch.full_like(x, float(self.values[0 if "label" in cond else 1]))

    data = pair(2, label=torch.zeros(2, dtype=torch.int64))
    data = data._replace(x1=data.x0 + 2.0)  # conditional velocity 2, unconditional 1
    for guidance, kappa in ((1.0, 0.5), (2.0, 0.0), (3.0, 0.6)):
        network = Labelled()
        network.values = torch.tensor([1.0 + guidance * (2.0 - 1.0), 1.0])
        target = guided_target(network, data, torch.rand(2), guidance=guidance, kappa=kappa)
        torch.testing.assert_close(target, torch.full_like(target, 1.0 + guidance))


def test_guidance_begins_at_its_time():
    network = student(num_classes=2, label_dropout=0.2).eval()
    data = pair(4, label=torch.tensor([0, 1, 0, 1]))
    t = torch.tensor([0.1, 0.2, 0.5, 0.9])
    v = MeanFlow(guidance=2.0, guided_from=0.5)._target(network, data, t)
    plain = data.x1 - data.x0
    assert torch.equal(v[:2], plain[:2]) and not torch.allclose(v[2:], plain[2:])


# schedules


def test_shares_move_by_anneal():
    module = FlowModule(student(), Splitting(first="data", split=1.0))
    owner, name = Anneal(Sigmoid(0, 100), "objective.split")._owner(module)
    assert (owner, name) == (module.objective, "split")
    owner, name = Anneal(Geometric(10), "objective.intervals.ratio")._owner(
        FlowModule(student(), Consistency())
    )
    assert name == "ratio" and owner.ratio == 256
    values = [Sigmoid(0, 100)(step) for step in (0, 50, 100, 1000)]
    assert values == pytest.approx([1.0, 0.5, 0.005, 0.005], abs=1e-4)


@pytest.mark.parametrize("p", [0.0, 0.75, 1.0])
def test_alpha_flow_has_gradients_of_one_size_for_any_share(p):
    sizes = []
    for share in (1e-2, 1e-3):
        network = GaussianMap(sign=0.8)
        objective = Splitting(Ordered(Uniform(), equal=0.0), first="data", split=share, p=p, c=1e-9)
        torch.manual_seed(0)
        objective(network, network.pair(64))["loss"].backward()
        sizes.append(float(network.theta.grad))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_the_error_where_the_interval_is_empty_is_logged():
    network = GaussianMap()
    parts = MeanFlow(Ordered(Uniform(), equal=1.0))(network, network.pair(8))
    torch.testing.assert_close(parts["velocity"], parts["error"])
    none = MeanFlow(Ordered(Uniform(), equal=0.0))(network, network.pair(8))
    assert float(none["velocity"]) == 0


def test_a_one_step_network_of_consistency_is_sampled_by_euler():
    module = FlowModule(tiny_unet(), Consistency(), solvers={"one": Euler(1)})
    assert isinstance(module.objective.distance, nn.Module) and not isinstance(
        module.objective.distance, SquaredError
    )


# targets of the average


def averaged(objective, network):
    """A module whose average has other weights than its network, as after some steps."""
    module = FlowModule(network, objective)
    module.averages.begin("ema", network)
    with torch.no_grad():
        for value in module.ema.parameters():
            value.mul_(0.5)
    return module


def test_targets_of_shortcut_models_are_the_averages():
    data = pair(8)
    objective = Splitting(Ordered(Uniform(), equal=0.0), targets="average")
    module = averaged(objective, student().eval())
    seeded = []
    for targets in ("average", "trained"):
        objective.targets = targets
        torch.manual_seed(3)
        seeded.append(objective(module.network, data)["loss"].item())
    t, s = torch.full((8,), 0.25), torch.full((8,), 0.75)
    m = (t + s) / 2
    ours = splitting_loss(module.network, None, data, t, s, m=m, distance=SquaredError(), targets=module.ema)
    x = data.x0 + 0.25 * (data.x1 - data.x0)
    first = module.ema(x, t, {"r": m})
    second = module.ema(x + 0.25 * first, m, {"r": s})
    expected = SquaredError()(module.network(x, t, {"r": s}), (first + second) / 2)
    torch.testing.assert_close(ours, expected)
    assert seeded[0] != seeded[1]


def test_targets_of_the_average_take_no_gradient_and_leave_it_in_its_mode():
    objective = Splitting(Ordered(Uniform(), equal=0.0), targets="average")
    module = averaged(objective, student(dropout=0.5).train())
    before = {name: value.clone() for name, value in module.ema.state_dict().items()}
    objective(module.network, pair(8))["loss"].backward()
    assert not any(part.training for part in module.ema.modules())
    assert all(value.grad is None for value in module.ema.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.ema.state_dict().items())
    assert any(value.grad is not None for value in module.network.parameters())


def test_the_average_hides_the_labels_that_the_network_hides():
    network = Watching().train()
    objective = Splitting(Ordered(Uniform(), equal=0.0), targets="average")
    module = averaged(objective, network.network)
    hidden = []
    module.ema.label.table.register_forward_hook(lambda m, i, o: hidden.append(i[0]))
    torch.manual_seed(1)
    objective(network.network, pair(8, label=torch.arange(8) % 3))
    assert len(hidden) == 2 and all(torch.equal(labels, network.labels[0]) for labels in hidden)
    assert 0 < int((hidden[0] == 3).sum()) < 8


def test_targets_of_an_average_that_nobody_keeps_are_refused():
    objective = Splitting(targets="average")
    module = FlowModule(student(), objective)
    with pytest.raises(FlowlitError, match=r"nothing averages the weights.*callbacks\.EMA"):
        objective(module.network, pair())


# guidance as an input


def test_improved_guidance_has_the_guided_velocity_of_each_scale_as_its_fixed_point():
    """u_c = v_c + (1 - 1/ω) (u_c - u_∅) at u_c = u_∅ + ω (v_c - u_∅); outside its times ω is 1."""

    class Labelled(nn.Module):
        def forward(self, x, t, cond={}):
            scale, first, last = cond["guidance"].unbind(1)
            inside = (t >= first) & (t <= last)
            guided = 1.0 + torch.where(inside, scale, 1.0) * (2.0 - 1.0)
            u = guided if "label" in cond else torch.ones_like(t)
            return torch.zeros_like(x) + u[:, None, None, None].to(x.dtype)

    guidance = torch.tensor([[1.0, 0, 1], [2.0, 0, 1], [8.0, 0, 1], [8.0, 0.5, 1]])
    data = pair(4, label=torch.zeros(4, dtype=torch.int64), guidance=guidance)
    data = data._replace(x1=data.x0 + 2.0)  # conditional velocity 2, unconditional 1
    target = own_guided_target(Labelled(), data, torch.full((4,), 0.25))
    expected = torch.tensor([2.0, 3.0, 9.0, 2.0])[:, None, None, None]
    torch.testing.assert_close(target, expected.expand_as(target))


def test_guidances_are_drawn_from_1_to_the_largest_around_the_middle():
    scale, first, last = drawn_guidance(100_000, 8.0).unbind(1)
    assert float(scale.min()) >= 1 and float(scale.max()) <= 8
    assert float(scale.log().mean()) == pytest.approx(math.log(8) / 2, abs=0.01)
    assert float(first.max()) <= 0.5 <= float(last.min()) and float(last.max()) <= 1
    assert float(first.mean()) == pytest.approx(0.25, abs=0.005)
    assert float(last.mean()) == pytest.approx(0.75, abs=0.005)


def test_a_network_that_is_told_its_guidance_begins_as_it_was():
    inside = student(num_classes=10).eval()
    x, t, label = torch.randn(4, *tiny.SHAPE), torch.rand(4), torch.arange(4)
    before = inside(x, t, {"label": label})
    network = GuidanceInput(inside, scale=2.0, interval=(0.25, 0.75))
    assert torch.equal(inside(x, t, {"label": label}), before), "what was given is as it was"
    cond = {"label": label, "guidance": torch.tensor([3.0, 0.0, 1.0]).expand(4, 3)}
    assert torch.equal(network(x, t, cond), before) and network.shape == tiny.SHAPE
    with torch.no_grad():
        network.network.stem.weight[:, -3:] = 1.0
    given = torch.tensor([2.0, 0.25, 0.75]).expand(4, 3)
    assert torch.equal(network(x, t, {"label": label}), network(x, t, {"label": label, "guidance": given}))
    assert not torch.equal(network(x, t, cond), network(x, t, {"label": label}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowModule(student(), ImprovedMeanFlow()), "does not read a guidance.*GuidanceInput"),
        (lambda: ImprovedMeanFlow(largest_guidance=0.5), "largest_guidance is 0.5; expected 1"),
        (lambda: GuidanceInput(nn.Conv2d(1, 1, 3)), "Conv2d has no convolution stem"),
        (lambda: GuidanceInput(student(), interval=(0.7, 0.2)), "interval is .*expected two times"),
        (lambda: ImprovedMeanFlow()(guided_student(), pair()), "guidance needs labels"),
    ],
)
def test_guidance_that_cannot_be_is_refused(make, message):
    with pytest.raises(FlowlitError, match=message):
        make()


def test_without_guidance_it_is_mean_flow_along_its_own_velocity():
    network = student().eval()
    losses = []
    for objective in (
        ImprovedMeanFlow(Ordered(Uniform()), largest_guidance=1.0),
        MeanFlow(Ordered(Uniform()), tangent="self"),
    ):
        torch.manual_seed(2)
        losses.append(objective(network, pair())["loss"])
    assert torch.equal(*losses)
