"""Discriminators: velocities with a head, whose logits are those of features of one layer."""

from copy import deepcopy

import pytest
import tiny
import torch
from tools import randomise, tiny_unet
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.networks import EDM, ChannelMean, Discriminator
from flowlit.networks.critics import as_maps, bottleneck_of, logit_head


def inputs(rows=3, size=8):
    torch.manual_seed(1)
    return torch.randn(rows, 1, size, size), torch.rand(rows)


def unet(**changes):
    torch.manual_seed(0)
    return randomise(tiny_unet(**changes)).eval()


def judge(**arguments):
    return randomise(Discriminator(unet(), **arguments)).eval()


def test_as_a_velocity_it_is_the_network_inside():
    network = unet(num_classes=3, label_dropout=0.1)
    both = Discriminator(network)
    x, t = inputs()
    cond = {"label": torch.tensor([0, 1, 2])}
    assert torch.equal(both(x, t, cond), network(x, t, cond))
    for name in ("shape", "num_classes", "label_dropout", "reads"):
        assert getattr(both, name) == getattr(network, name)
    assert both.evaluations == 1


def test_logits_are_of_the_features_and_of_the_conditions():
    both = randomise(Discriminator(unet(num_classes=3))).eval()
    x, t = inputs()
    labels = torch.tensor([0, 1, 2])
    logits = both.logits(x, t, {"label": labels})
    assert logits.shape == (3, 1, 1, 1) and logits.std() > 0
    assert not torch.allclose(logits, both.logits(x, t, {"label": labels.flip(0)}))
    assert not torch.allclose(logits, both.logits(x, t.flip(0), {"label": labels}))
    assert torch.equal(logits, both.head(both.features(x, t, {"label": labels})))


def test_a_fresh_head_has_no_opinion():
    x, t = inputs()
    assert Discriminator(unet()).logits(x, t).abs().max() < 1e-4


def test_the_features_are_the_bottlenecks_unless_a_layer_is_named():
    x, t = inputs()
    both = judge()
    outputs = []
    both.network.bottleneck[-1].register_forward_hook(lambda *values: outputs.append(values[-1]))
    assert torch.equal(both.features(x, t), outputs[0])
    assert bottleneck_of(EDM(unet(time_scale=1.0))).startswith("network.bottleneck.")
    assert judge(layer="stem").features(x, t).shape[2:] == (8, 8)


def test_gradients_reach_head_encoder_and_image_but_not_the_decoder():
    both = judge()
    x, t = inputs()
    x.requires_grad_()
    both.logits(x, t).sum().backward()
    graded = {name for name, p in both.named_parameters() if p.grad is not None}
    assert {"head", "network.encoder", "network.bottleneck"} <= {prefix(name) for name in graded}
    assert not any("decoder" in name for name in graded)
    assert x.grad.abs().sum() > 0


def prefix(name):
    first, second, *_ = name.split(".")
    return first if first == "head" else f"{first}.{second}"


def test_a_guides_features_leave_the_critic_alone():
    guide = unet()
    both = randomise(Discriminator(unet(), guide=guide)).eval()
    x, t = inputs()
    x.requires_grad_()
    before = deepcopy(guide.state_dict())
    both.logits(x, t).sum().backward()
    assert {prefix(name) for name, p in both.named_parameters() if p.grad is not None} == {"head"}
    assert x.grad.abs().sum() > 0
    assert tiny.same(before, guide.state_dict()) and all(p.grad is None for p in guide.parameters())
    assert not any("guide" in name for name in both.state_dict())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 16, 32])
def test_a_head_ends_at_one_logit_from_any_size(size):
    assert logit_head(8, size)(torch.randn(2, 8, size, size)).shape == (2, 1, 1, 1)


def test_the_head_for_8_by_8_is_dmd2s():
    convolutions = [layer for layer in logit_head(64, 8) if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(4, 4), (4, 4), (1, 1)]


def test_logits_without_a_head_are_a_map():
    x, t = inputs()
    both = judge(head=ChannelMean())
    torch.testing.assert_close(both.logits(x, t), both.features(x, t).mean(1, keepdim=True))


def test_tokens_and_vectors_become_maps():
    maps = torch.arange(24.0).view(1, 6, 2, 2)
    assert torch.equal(as_maps(maps.flatten(2).transpose(1, 2)), maps)
    assert as_maps(torch.zeros(5, 7)).shape == (5, 7, 1, 1)
    with pytest.raises(FlowlitError, match=r"its layer returns \(1, 5, 6\); expected maps \(B, c, h, w\)"):
        as_maps(torch.zeros(1, 5, 6))


def test_building_one_changes_no_mode_and_draws_nothing():
    network = unet().train()
    torch.manual_seed(3)
    Discriminator(network, head=ChannelMean())
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert Discriminator(network).training and network.training


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (tiny.Affine, {}, "Affine has no bottleneck; name the layer"),
        (tiny.Affine, {"layer": "mix"}, "Affine has no shape, so its features cannot be measured; give"),
        (tiny.Affine, {"layer": "mixed"}, r"layers \['mixed'\] not in Affine: \['mix'\]"),
        (unet, {"layer": "head.0"}, r"layers \['head.0'\] not in UNet"),
    ],
)
def test_what_does_not_fit_is_refused(network, arguments, message):
    with pytest.raises(FlowlitError, match=message):
        Discriminator(network(), **arguments)
