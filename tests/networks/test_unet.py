import pytest
import torch
from reference.unet import unet
from tools import randomise, tiny_unet

from flowlit.errors import FlowlitError
from flowlit.networks import UNet
from flowlit.networks.layers import LabelEmbedding, TimeEmbedding
from flowlit.networks.norm import Norm, norm


def test_the_defaults_are_the_student():
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet().parameters()) == 15_707_235


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"in_channels": 3, "multipliers": (1, 2, 2), "blocks": 2},
        {"resolution": 16, "width": 16, "multipliers": (1, 1, 3), "attention_resolutions": (16, 8)},
        {"width": 16, "multipliers": (2,), "attention_resolutions": ()},
        {"num_classes": 4},
    ],
    ids=str,
)
def test_forward_agrees_with_an_independent_implementation(settings):
    network = randomise(tiny_unet(**settings)).eval()
    told = network.spec["init_args"]
    x, t = torch.randn(3, *network.shape), torch.tensor([0.0, 0.37, 1.0])
    label = torch.tensor([2, 0, 3]) if network.num_classes else None
    layout = {key: told[key] for key in ("width", "multipliers", "blocks", "attention_resolutions")}
    with torch.no_grad():
        ours = network(x, t, {} if label is None else {"label": label})
        theirs = unet(dict(network.state_dict()), x, t, label=label, **layout)
    assert ours.std() > 0.05, "a zero output would prove nothing"
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())


def test_a_fresh_network_returns_almost_nothing():
    torch.manual_seed(0)
    network = UNet(resolution=16, width=32, multipliers=(1, 2)).eval()
    output = network(torch.randn(2, 3, 16, 16), torch.rand(2))
    assert 0 < output.abs().max() < 1e-3


def test_fresh_weights_follow_their_variance_scaling():
    torch.manual_seed(0)
    network = UNet(resolution=16, width=64, multipliers=(1, 2))
    bottleneck = network.bottleneck[0]
    for weight, fan, scale in [
        (network.stem.weight, 9 * (3 + 64) / 2, 1),
        (bottleneck.block.conv0.weight, 9 * 128, 1),
        (bottleneck.block.affine.weight, (256 + 128) / 2, 1),
        (bottleneck.attention.qkv.weight, 128, 0.1),
        (bottleneck.block.conv1.weight, 9 * 128, 1e-10),
    ]:
        bound = (3 * scale / fan) ** 0.5
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert float(weight.detach().var()) == pytest.approx(scale / fan, rel=0.1)
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_odd_batches(batch):
    network = randomise(tiny_unet()).eval()
    x, t = torch.randn(batch, 1, 8, 8), torch.rand(batch)
    together = network(x, t)
    assert together.shape == x.shape
    assert torch.allclose(network(x[-1:], t[-1:]), together[-1:], atol=1e-5)


def test_every_parameter_gets_a_gradient():
    network = randomise(tiny_unet(num_classes=3))
    network(
        torch.randn(4, 1, 8, 8), torch.rand(4), {"label": torch.tensor([0, 1, 2, 0])}
    ).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_time_and_label_change_the_output():
    network, x = randomise(tiny_unet(num_classes=3)).eval(), torch.randn(1, 1, 8, 8)

    def output(t, label):
        return network(x, torch.tensor([t]), {"label": torch.tensor([label])})

    assert (output(0.5, 0) - output(0.501, 0)).abs().max() > 1e-4
    assert (output(0.5, 0) - output(0.5, 1)).abs().max() > 1e-2


def test_time_embedding_distinguishes_times_that_bfloat16_cannot():
    embedding, t = TimeEmbedding(16), torch.tensor([0.9, 0.901])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = embedding(t)
    assert (a - b).abs().max() > 0.01


def test_dropout_works_in_training_only():
    network, x, t = randomise(tiny_unet(dropout=0.5)), torch.randn(2, 1, 8, 8), torch.rand(2)
    assert not torch.equal(network.train()(x, t), network(x, t))
    assert torch.equal(network.eval()(x, t), network(x, t))


def test_labels_are_dropped_with_their_probability_in_training_only():
    torch.manual_seed(0)
    embedding, label = LabelEmbedding(3, 5, dropout=0.25), torch.ones(4000, dtype=torch.int64)
    hidden = (embedding(label, 4000, label.device) == embedding.table.weight[3]).all(1)
    assert float(hidden.float().mean()) == pytest.approx(0.25, abs=0.03)
    embedding.eval()
    assert torch.equal(embedding(label, 4000, label.device), embedding.table(label))


def test_a_network_with_label_dropout_works_without_labels():
    network, x, t = (
        randomise(tiny_unet(num_classes=3, label_dropout=0.1)).eval(),
        torch.randn(2, 1, 8, 8),
        torch.rand(2),
    )
    assert torch.equal(network(x, t), network(x, t, {"label": torch.tensor([3, 3])})), (
        "class 3 stands for no label"
    )


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 2), (64, 16), (96, 24), (128, 32), (288, 32), (132, 22)]
)
def test_group_norm_has_a_quarter_of_the_channels_as_groups_up_to_32(channels, groups):
    assert norm(channels).num_groups == groups and norm(channels).eps == 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 7}, "resolution 7 cannot be halved 1 times"),
        ({"width": 10}, "width 10"),
        ({"width": 4}, "width 4"),
    ],
)
def test_impossible_sizes(settings, message):
    with pytest.raises(FlowlitError, match=message):
        tiny_unet(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "cond", "message"),
    [
        ({}, (3, 8, 8), {}, r"shape \(1, 8, 8\), found \(3, 8, 8\)"),
        ({}, (1, 16, 16), {}, r"found \(1, 16, 16\)"),
        ({}, (1, 8, 8), {"label": torch.zeros(2, dtype=torch.int64)}, "the network is unconditional"),
        ({"num_classes": 3}, (1, 8, 8), {}, "conditional on 3 classes, but cond has no 'label'"),
    ],
)
def test_inputs_that_do_not_fit(settings, shape, cond, message):
    with pytest.raises(FlowlitError, match=message):
        tiny_unet(**settings)(torch.zeros(2, *shape), torch.zeros(2), cond)


def test_spec_is_the_way_it_was_built():
    settings = {
        "in_channels": 2,
        "width": 16,
        "multipliers": (1, 1),
        "dropout": 0.3,
        "num_classes": 5,
        "label_dropout": 0.2,
    }
    network = tiny_unet(**settings)
    again = UNet(**network.spec["init_args"])
    assert again.spec == network.spec and again.bottleneck[0].block.dropout.p == 0.3
    assert again.load_state_dict(network.state_dict())


class PlainNorm(Norm):
    """As it was before half precision was kept for the gradient."""

    def forward(self, x):
        return torch.nn.functional.group_norm(
            x.float(), self.num_groups, self.weight, self.bias, self.eps
        ).to(x.dtype)


def half_norms():
    torch.manual_seed(0)
    norms = Norm(2, 8), PlainNorm(2, 8)
    for each in norms:
        torch.nn.init.normal_(each.weight, generator=torch.Generator().manual_seed(1))
    return (*norms, torch.randn(3, 8, 4, 4).bfloat16(), torch.randn(3, 8, 4, 4).bfloat16())


def test_a_norm_in_half_precision_can_be_differentiated_twice():
    ours, plain, x, tangent = half_norms()
    found = []
    for each in (ours, plain):
        at, along = x.clone().requires_grad_(), tangent.clone().requires_grad_()
        (first,) = torch.autograd.grad((each(at) * along).sum(), at, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), (at, along, each.weight))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_a_norm_in_half_precision_knows_forward_derivatives_and_function_transforms():
    ours, plain, x, tangent = half_norms()
    for value, derivative in zip(
        torch.func.jvp(ours, (x,), (tangent,)), torch.func.jvp(plain, (x,), (tangent,)), strict=True
    ):
        assert torch.equal(value, derivative)
    gradient = torch.func.grad(lambda at: (ours(at) * tangent).sum().float())(x)
    assert torch.equal(gradient, torch.func.grad(lambda at: (plain(at) * tangent).sum().float())(x))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        found = [torch.autograd.forward_ad.unpack_dual(each(dual)).tangent for each in (ours, plain)]
    assert torch.equal(*found)


def test_a_norm_in_half_precision_takes_no_images():
    assert half_norms()[0](torch.zeros(0, 8, 4, 4, dtype=torch.bfloat16)).shape == (0, 8, 4, 4)
