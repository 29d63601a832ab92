import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tools import LinearField, tiny_unet
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen, FrozenLayers


class Holder(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.student, self.teacher = nn.Linear(1, 1), Frozen(network)


def test_nothing_that_walks_over_modules_finds_it():
    holder, alone = Holder(LinearField()), nn.Linear(1, 1)
    assert len(holder.state_dict()) == len(alone.state_dict())
    assert len(list(holder.parameters())) == len(list(alone.parameters()))
    assert len(list(holder.modules())) == 2


def test_it_stays_in_eval_mode_for_ever():
    network = tiny_unet(dropout=0.5)
    holder = Holder(network).train()
    assert not any(module.training for module in network.modules())
    x, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    assert torch.equal(holder.teacher(x, t), holder.teacher(x, t))


def test_its_parameters_take_no_gradient_but_its_input_does():
    network, x = LinearField(), torch.ones(2, 3, requires_grad=True)
    Frozen(network)(x, torch.zeros(2)).sum().backward()
    assert torch.allclose(x.grad, torch.full((2, 3), 0.3))
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_a_deep_copy_shares_it():
    holder = Holder(LinearField())
    twin = copy.deepcopy(holder)
    assert twin.student is not holder.student and twin.teacher is holder.teacher


def test_it_can_be_pickled():
    frozen, x = Frozen(LinearField(a=0.7)), torch.ones(1, 1)
    assert torch.equal(pickle.loads(pickle.dumps(frozen))(x, torch.zeros(1)), frozen(x, torch.zeros(1)))


def test_it_follows_its_input_to_another_device():
    frozen = Frozen(tiny_unet())
    x, t = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    frozen(x, t)
    assert frozen(x.to("meta"), t.to("meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_follows_its_input_to_the_gpu_and_back():
    frozen, x, t = Frozen(LinearField()), torch.ones(1, 1), torch.zeros(1)
    assert frozen(x.cuda(), t.cuda()).is_cuda
    assert not frozen(x, t).is_cuda


# ------------------------------------------------------------------------------------------------------------
# layers


def layered():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))


def test_layers_are_what_the_network_computes_there():
    network, x = layered(), torch.randn(3, 1, 8, 8)
    outputs = FrozenLayers(network, ["", "0"])(x)
    assert list(outputs) == ["0", ""], "in the order of the network"
    assert torch.equal(outputs["0"], network[0](x)) and torch.equal(outputs[""], network(x))
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_are_float32_under_autocast():
    layers, x = FrozenLayers(layered(), ["2"]), torch.randn(3, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layers(x.bfloat16())
    assert torch.equal(outputs["2"], layers(x.bfloat16().float())["2"])


def test_layers_of_a_copy_and_of_another_holder_are_apart():
    network, x = layered(), torch.randn(2, 1, 8, 8)
    one = FrozenLayers(network, ["0"])
    other = FrozenLayers(network, ["2"])
    again = pickle.loads(pickle.dumps(one))
    assert list(one(x)) == list(again(x)) == ["0"] and list(other(x)) == ["2"]
    assert copy.deepcopy(one) is one and torch.equal(again(x)["0"], one(x)["0"])


def test_layers_see_images_of_the_size_that_was_asked_for():
    network, x = layered(), torch.randn(2, 1, 8, 8)
    small = F.interpolate(x, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(FrozenLayers(network, ["0"], 4)(x)["0"], network[0](small))


def test_layers_that_give_nothing_are_refused():
    network = layered()
    network.unused = nn.Identity()
    network.forward = lambda x: network[0](x)
    with pytest.raises(FlowlitError, match=r"layers \['2'\] of Sequential returned no tensor"):
        FrozenLayers(network, ["0", "2"])(torch.zeros(1, 1, 8, 8))
    with pytest.raises(FlowlitError, match=r"layers \[\] not in Sequential"):
        FrozenLayers(network, [])
