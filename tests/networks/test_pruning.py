"""Networks without some of their blocks, and which blocks matter least."""

from copy import deepcopy

import pytest
import torch
from jsonargparse import ArgumentParser
from tools import randomise, tiny_unet
from torch import nn

import flowlit
from flowlit.callbacks.training.summary import summary
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.networks import ADM, EDM, ConcatenatedImage, FixedTime, Pruned, pruned
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.dit import DiT
from flowlit.networks.pruning import importance, least_important, states_of
from flowlit.networks.skipping import Skipped, removable, skipping
from flowlit.solvers import Euler

UNET = ["encoder.0", "bottleneck.0", "bottleneck.1", "decoder.0", "decoder.1", "decoder.4"]
SMALL = {"resolution": 8, "in_channels": 1, "width": 8, "multipliers": (1, 2), "blocks": 1}


def dit(**arguments):
    return DiT(8, 1, 2, 16, 3, 2, **arguments)


NETWORKS = {
    "UNet": (tiny_unet, UNET),
    "UNet of classes": (lambda: tiny_unet(num_classes=3, second_time=True), UNET),
    "ADM": (lambda: ADM(**SMALL, attention_resolutions=(), num_classes=0), UNET),
    "DiT": (dit, ["blocks.0", "blocks.1", "blocks.2"]),
    "inside another": (lambda: EDM(tiny_unet(time_scale=1.0)), [f"network.{name}" for name in UNET]),
    "an image": (lambda: ConcatenatedImage(tiny_unet()), [f"network.{name}" for name in UNET]),
}


@pytest.mark.parametrize(("make", "names"), NETWORKS.values(), ids=NETWORKS)
def test_what_keeps_its_shape_can_be_left_out_and_nothing_else(make, names):
    network = make()
    assert removable(network) == names
    x = torch.randn(2, 1, 8, 8)
    cond = {"label": torch.tensor([0, 2])} if network.num_classes else {}
    cond |= {"image": x} if "image" in network.reads else {}
    t = torch.tensor([0.2, 0.9])
    for name in names:
        part = network.get_submodule(name)
        with skipping(network, [name]):
            assert network(x, t, cond).shape == x.shape
        assert network.get_submodule(name) is part
    without = Pruned(network, names)
    assert without(x, t, cond).shape == x.shape and removable(without) == []
    again = build(spec(without), nn.Module)
    again.load_state_dict(without.state_dict())
    assert torch.equal(again.eval()(x, t, cond), without.eval()(x, t, cond))


def test_a_part_that_does_nothing_is_dropped_first_and_costs_nothing():
    network = randomise(dit(), 1)
    nn.init.zeros_(network.blocks[1].modulation.layer.weight)
    nn.init.zeros_(network.blocks[1].modulation.layer.bias)
    states = states_of(network, 5, 3)
    assert [name for name, distance in least_important(network, states, 1)] == ["blocks.1"]
    assert importance(network, states, ["blocks.1"]) == {"blocks.1": 0.0}
    assert not any(isinstance(module, Skipped) for module in network.modules())
    x, t, v = states.steps[2]
    assert torch.equal(Pruned(network, ["blocks.1"])(x, t), v)


def test_importance_is_the_distance_from_the_teacher_and_measured_again_after_each_block():
    network = randomise(tiny_unet(num_classes=3), 2).eval()
    states = states_of(network, 6, 4, seed=9)
    assert states.cond["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert [float(t[0]) for _, t, _ in states.steps] == [0.0, 0.25, 0.5, 0.75]
    distances = importance(network, states, UNET)
    chosen = list(least_important(network, states, 2))
    assert chosen[0] == min(distances.items(), key=lambda pair: pair[1])
    for count in (1, 2):
        names = [name for name, _ in chosen[:count]]
        smaller = Pruned(deepcopy(network), names).eval()
        with torch.no_grad():
            missed = sum((smaller(x, t, states.cond) - v).square().sum() for x, t, v in states.steps)
        share = float(missed / sum(v.square().sum() for _, _, v in states.steps))
        assert share == pytest.approx(chosen[count - 1][1], rel=1e-4)
        rest = [name for name in UNET if name not in names[:-1]]
        with skipping(network, names[:-1]):
            assert min(importance(network, states, rest).values()) == pytest.approx(share, rel=1e-4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    Generator(randomise(tiny_unet(), 3), Euler(4), Pixels()).save(path)
    return path


def test_a_student_from_a_yaml_keeps_the_weights_of_the_other_blocks(teacher, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    options = {"checkpoint": str(teacher), "drop": 2, "num": 8, "steps": 2}
    given = {"network": {"class_path": "flowlit.networks.pruned", "init_args": options}}
    with pytest.raises(Exception, match="drop"):
        parser.parse_object({"network": {**given["network"], "init_args": {**options, "drop": 0}}})
    student = parser.instantiate(parser.parse_object(given)).network
    whole = flowlit.load(teacher).network
    kept = student.network.state_dict()
    assert len(student.without) == 2 and len(kept) < len(whole.state_dict())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in kept.items())
    module = nn.Module()
    module.network = student
    assert summary(module).startswith(f"network Pruned without {', '.join(student.without)}, ")
    student.train()
    student(torch.randn(1, 1, 8, 8), torch.zeros(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    Generator(student, Euler(1), Pixels()).save(tmp_path / "student.safetensors")
    again = flowlit.load(tmp_path / "student.safetensors")
    assert again.network.spec == student.spec
    x = torch.randn(3, 1, 8, 8)
    folded = FixedTime(deepcopy(again.network), 0.0).eval()
    torch.testing.assert_close(
        folded(x, torch.zeros(3)), student.eval()(x, torch.zeros(3)), rtol=0, atol=1e-5
    )
    assert pruned(str(teacher), ["decoder.4"]).without == ("decoder.4",)


BAD = {
    "too many": (
        lambda path: pruned(path, 7),
        "drop is 7, but only 6 blocks of .* can be left out: encoder.0",
    ),
    "a stage that halves": (
        lambda path: pruned(path, ["encoder.1"]),
        "'encoder.1' cannot be left out; expected",
    ),
    "twice": (lambda path: pruned(path, ["encoder.0"] * 2), "names a part twice"),
    "no blocks": (lambda path: Pruned(nn.Conv2d(1, 1, 1), []), "has no parts"),
    "an image": (lambda path: states_of(ConcatenatedImage(tiny_unet())), "reads image, so that it cannot"),
    "no shape": (lambda path: states_of(nn.Conv2d(1, 1, 1)), "has no attribute `shape`"),
}


@pytest.mark.parametrize(("call", "expected"), BAD.values(), ids=BAD)
def test_what_cannot_be_pruned_is_one_error(call, expected, teacher):
    with pytest.raises((FlowlitError, ValueError), match=expected):
        call(str(teacher))
