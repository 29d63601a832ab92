import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
import yaml
from commandline import REPOSITORY
from einops import rearrange
from matrix import few
from reference.dit import dit, sine_table
from tools import randomise
from torch.utils.flop_counter import FlopCounterMode

from flowlit._support.batch_invariance import BatchInvariant
from flowlit.errors import FlowlitError
from flowlit.networks import DiT

SMALL, BASE = {"width": 384, "depth": 12, "heads": 6}, {"width": 768, "depth": 12, "heads": 12}
POSITIONS = ("learned", "rotary")


def tiny_dit(**changes):
    """A transformer of a few thousand parameters: 16 tokens."""
    settings = {"resolution": 8, "in_channels": 1, "width": 16, "depth": 2, "heads": 2}
    return DiT(**{**settings, **changes})


def random_dit(**changes):
    return randomise(tiny_dit(**changes)).eval()


def inputs(network, batch=4):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, *network.shape, generator=generator), torch.rand(batch, generator=generator)


def linear(inputs, outputs):
    return inputs * outputs + outputs


def parameters_by_formula(
    width, depth, heads, resolution=32, channels=3, patch=2, ratio=4, classes=0, learned=True
):
    pixels, hidden = patch**2 * channels, ratio * width
    block = linear(width, 6 * width) + linear(width, 3 * width) + linear(width, width)
    block += linear(width, hidden) + linear(hidden, width)
    ends = linear(pixels, width) + linear(width, 2 * width) + linear(width, pixels)
    time = linear(256, width) + linear(width, width)
    return depth * block + ends + time + learned * (resolution // patch) ** 2 * width + classes * width


def macs_by_formula(width, depth, heads, resolution=32, channels=3, patch=2, ratio=4):
    tokens, pixels = (resolution // patch) ** 2, patch**2 * channels
    block = tokens * width**2 * (4 + 2 * ratio) + 2 * tokens**2 * width + 6 * width**2
    return depth * block + 2 * tokens * pixels * width + 2 * width**2 + 256 * width + width**2


@pytest.mark.parametrize(
    ("settings", "parameters", "macs"),
    [(SMALL, 32_569_740, 6_053_314_560), (BASE, 129_725_196, 23_000_383_488)],
    ids=["S/2", "B/2"],
)
def test_sizes_of_the_paper(settings, parameters, macs):
    with torch.device("meta"):
        network = DiT(**settings).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 32, 32), torch.zeros(1))
    assert sum(p.numel() for p in network.parameters()) == parameters == parameters_by_formula(**settings)
    assert counter.get_total_flops() / 2 == macs == macs_by_formula(**settings)


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        ({"positions": "rotary"}, {"learned": False}),
        ({"num_classes": 10}, {"classes": 10}),
        ({"num_classes": 10, "label_dropout": 0.1}, {"classes": 11}),
        ({"resolution": 64, "patch": 4, "in_channels": 1}, {"resolution": 64, "patch": 4, "channels": 1}),
        ({"mlp_ratio": 2.0}, {"ratio": 2}),
    ],
    ids=str,
)
def test_what_else_has_parameters(settings, formula):
    with torch.device("meta"):
        assert sum(p.numel() for p in DiT(**settings).parameters()) == parameters_by_formula(
            **SMALL, **formula
        )


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"in_channels": 3, "patch": 4, "width": 32, "depth": 1},
        {"heads": 4, "patch": 1, "num_classes": 4},
        {"mlp_ratio": 1.5},
    ],
    ids=str,
)
def test_forward_agrees_with_an_independent_implementation(settings, positions):
    network = random_dit(positions=positions, **settings)
    told = network.spec["init_args"]
    x, t = (
        torch.randn(3, *network.shape),
        torch.tensor([0.0, 0.0137, 0.05]),
    )  # later times differ in the rounding of 999 · t
    label = torch.tensor([2, 0, 3]) if network.num_classes else None
    layout = {key: told[key] for key in ("patch", "depth", "heads", "positions")}
    with torch.no_grad():
        ours = network(x, t, {} if label is None else {"label": label})
        theirs = dit(dict(network.state_dict()), x, t, label=label, **layout)
    assert ours.std() > 0.05, "a zero output would prove nothing"
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_fresh_network_returns_exactly_nothing(positions):
    network = tiny_dit(positions=positions, num_classes=3)
    assert not network(*inputs(network, 3), {"label": torch.arange(3)}).any()


@pytest.mark.parametrize("positions", POSITIONS)
def test_fresh_blocks_are_the_identity(positions):
    network, tokens, embedding = tiny_dit(positions=positions), torch.randn(2, 16, 16), torch.randn(2, 16)
    rotation = None if network.rotary is None else network.rotary.get_embed()
    for block in network.blocks:
        assert torch.equal(block(tokens, embedding, rotation), tokens)
        assert block.attention(tokens, rotation).std() > 0.1 and block.mlp(tokens).std() > 0.1, (
            "only the gates are closed"
        )


def test_fresh_weights_follow_the_paper():
    torch.manual_seed(0)
    network = DiT(width=64, depth=1, heads=2, num_classes=100)
    block = network.blocks[0]
    for weight in (
        block.attention.qkv.weight,
        block.attention.proj.weight,
        block.mlp.fc1.weight,
        network.stem.proj.weight,
    ):
        flat = weight.detach().flatten(1)
        bound = (6 / sum(flat.shape)) ** 0.5
        assert 0.98 * bound < float(flat.abs().max()) <= bound * (1 + 1e-6)
    for weight in (network.time.layers[0].weight, network.time.layers[2].weight, network.label.table.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for layer in (network.modulation.layer, block.modulation.layer, network.head):
        assert not layer.weight.any()
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_learned_positions_start_from_sines():
    assert torch.allclose(tiny_dit(width=32).positions, sine_table(4, 32), atol=1e-6)


def shuffled(x, order, patch=2):
    """Images whose patches are in another order."""
    tokens = rearrange(x, "b c (i p) (j q) -> b (i j) c p q", p=patch, q=patch)[:, order]
    return rearrange(tokens, "b (i j) c p q -> b c (i p) (j q)", i=x.shape[2] // patch)


def test_only_positions_tell_one_place_from_another():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    blind, learned, rotary = random_dit(), random_dit(), random_dit(positions="rotary")
    torch.nn.init.zeros_(blind.positions)
    x, t = inputs(blind)

    def moved(network):
        """How far shuffling before is from shuffling after."""
        return float((network(shuffled(x, order), t) - shuffled(network(x, t), order)).detach().abs().max())

    assert moved(blind) < 1e-5 and moved(learned) > 0.1 and moved(rotary) > 0.1


def test_rotary_attention_depends_on_relative_positions_only(monkeypatch):
    network, seen = random_dit(positions="rotary"), []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: seen.append((q, k)) or v)
    network.blocks[0].attention(torch.randn(1, 1, 16).expand(1, 16, 16), network.rotary.get_embed())
    (q, k) = seen[0]
    scores = (
        (q @ k.transpose(-2, -1)).detach()[0, 0].reshape(4, 4, 4, 4)
    )  # row, column of query; row, column of key
    assert torch.allclose(scores[1:, 1:, 1:, 1:], scores[:-1, :-1, :-1, :-1], atol=1e-5)
    assert (scores[0, 0, 0, 1] - scores[0, 0, 1, 0]).abs() > 1e-2, "rows are not columns"
    assert (scores[0, 0, 1, 0] - scores[1, 0, 0, 0]).abs() > 1e-2, "down is not up"


@pytest.mark.parametrize("positions", POSITIONS)
def test_attention_is_the_one_that_is_fused(positions, monkeypatch):
    network, calls, fused = random_dit(positions=positions), [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **b: calls.append(a[0].shape) or fused(*a, **b)
    )
    network(*inputs(network))
    assert calls == [(4, 2, 16, 8)] * 2


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_parameter_gets_a_gradient(positions):
    network = randomise(tiny_dit(positions=positions, num_classes=3))
    network(*inputs(network), {"label": torch.tensor([0, 1, 2, 0])}).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_time_and_label_change_the_output():
    network = random_dit(num_classes=3)
    x, _ = inputs(network, 1)

    def output(t, label):
        return network(x, torch.tensor([t]), {"label": torch.tensor([label])})

    assert (output(0.5, 0) - output(0.501, 0)).abs().max() > 1e-2
    assert (output(0.5, 0) - output(0.5, 1)).abs().max() > 1e-2


def test_dropout_works_in_training_only():
    network = random_dit(dropout=0.5)
    x, t = inputs(network)
    assert not torch.equal(network.train()(x, t), network(x, t))
    assert torch.equal(network.eval()(x, t), network(x, t))


def test_a_network_with_label_dropout_works_without_labels():
    network = random_dit(num_classes=3, label_dropout=0.1)
    x, t = inputs(network, 2)
    assert torch.equal(network(x, t), network(x, t, {"label": torch.tensor([3, 3])})), (
        "class 3 stands for no label"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 9}, "resolution 9 is not a multiple of patch 2"),
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"width": 6, "heads": 3}, "width 6 must be a multiple of 4 for learned positions"),
        (
            {"width": 12, "positions": "rotary"},
            "width of a head, 12 / 2 = 6, must be a multiple of 4 for rotary positions",
        ),
        ({"positions": "absolute"}, "positions is 'absolute'; expected 'learned' or 'rotary'"),
    ],
    ids=str,
)
def test_impossible_sizes(settings, message):
    with pytest.raises(FlowlitError, match=message):
        tiny_dit(**settings)


@pytest.mark.parametrize(
    ("settings", "shape", "cond", "message"),
    [
        ({}, (3, 8, 8), {}, r"DiT: built for images of shape \(1, 8, 8\), found \(3, 8, 8\)"),
        ({}, (1, 16, 16), {}, r"found \(1, 16, 16\)"),
        (
            {},
            (1, 8, 8),
            {"label": torch.zeros(2, dtype=torch.int64)},
            "DiT: cond has labels, but the network is unconditional",
        ),
        ({"num_classes": 3}, (1, 8, 8), {}, "conditional on 3 classes, but cond has no 'label'"),
        (
            {"num_classes": 3},
            (1, 8, 8),
            {"label": torch.tensor([0, 3])},
            "labels run from 0 to 3, but the network knows 3",
        ),
    ],
)
def test_inputs_that_do_not_fit(settings, shape, cond, message):
    with pytest.raises(FlowlitError, match=message):
        tiny_dit(**settings)(torch.zeros(2, *shape), torch.zeros(2), cond)


@pytest.mark.parametrize("positions", POSITIONS)
def test_spec_is_the_way_it_was_built(positions):
    settings = {
        "in_channels": 2,
        "mlp_ratio": 2.0,
        "dropout": 0.3,
        "num_classes": 5,
        "label_dropout": 0.2,
        "time_scale": 7.0,
    }
    network = tiny_dit(positions=positions, **settings)
    again = DiT(**network.spec["init_args"])
    drops = [again.blocks[0].mlp.drop1, again.blocks[0].mlp.drop2, again.blocks[0].attention.proj_drop]
    assert again.spec == network.spec and [drop.p for drop in drops] == [0.3] * 3 and again.time.scale == 7.0
    assert again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_copy_is_the_same(positions):
    network = random_dit(positions=positions)
    assert torch.equal(copy.deepcopy(network)(*inputs(network)), network(*inputs(network)))


@pytest.mark.parametrize("positions", POSITIONS)
def test_export_with_a_fixed_batch(positions):
    network = random_dit(positions=positions)
    exported = torch.export.export(network, inputs(network)).module()
    assert torch.allclose(exported(*inputs(network)), network(*inputs(network)), atol=1e-6)


@pytest.mark.parametrize("positions", few(POSITIONS, 0))
def test_export_with_any_batch(positions):
    network = random_dit(positions=positions, num_classes=3)
    batch = torch.export.Dim("batch", min=1, max=64)

    def labelled(size):
        return (*inputs(network, size), {"label": torch.arange(size) % 3})

    shapes = ({0: batch}, {0: batch}, {"label": {0: batch}})
    exported = torch.export.export(network, labelled(2), dynamic_shapes=shapes).module()
    for size in (1, 2, 7):
        assert torch.allclose(exported(*labelled(size)), network(*labelled(size)), atol=1e-6)


@pytest.mark.parametrize("positions", few(POSITIONS, 1))
def test_compiles_into_one_graph(positions):
    network = random_dit(positions=positions, num_classes=3)
    compiled, label = (
        torch.compile(network, backend="aot_eager", fullgraph=True),
        {"label": torch.tensor([0, 1, 2, 0])},
    )
    assert torch.allclose(compiled(*inputs(network), label), network(*inputs(network), label), atol=1e-6)


@pytest.mark.parametrize("positions", POSITIONS)
def test_bfloat16_autocast_is_close_and_tells_close_times_apart(positions):
    network = random_dit(positions=positions)
    x = inputs(network, 1)[0].expand(2, -1, -1, -1)
    with torch.no_grad():
        exact = network(x, torch.tensor([0.9, 0.901]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(x, torch.tensor([0.9, 0.901])).float()
    assert (rough - exact).norm() < 0.02 * exact.norm()
    difference, expected = rough[0] - rough[1], exact[0] - exact[1]
    assert (difference - expected).norm() < 0.1 * expected.norm()


def test_modulation_has_the_same_bits_under_autocast():
    modulation, embedding = random_dit().blocks[0].modulation, torch.randn(2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = modulation(embedding)
    assert all(torch.equal(ours, exact) for ours, exact in zip(rough, modulation(embedding), strict=True))


@pytest.mark.parametrize("positions", POSITIONS)
def test_bits_of_a_sample_do_not_depend_on_its_batch(positions):
    network = random_dit(positions=positions, in_channels=3, resolution=16, width=64, heads=4, num_classes=10)
    x, t = inputs(network, 32)
    cond = {"label": torch.arange(32) % 10}

    def first(size):
        with torch.no_grad():
            return BatchInvariant(network)(
                x[:size], t[:size], {key: value[:size] for key, value in cond.items()}
            )

    for size in (1, 7, 16):
        assert torch.equal(first(size), first(32)[:size])


@pytest.mark.parametrize(("size", "expected"), [("s", SMALL), ("b", BASE)])
def test_the_part_replaces_the_network_of_a_fit(size, expected, cli):
    part = f"experiments/parts/networks/dit_{size}_32.yaml"
    outcome = cli("fit", "-c", "experiments/slimflow_cifar.yaml", "-c", part, "--print_config")
    assert outcome.code == 0 and not outcome.err, outcome.err
    network = yaml.safe_load(outcome.out)["model"]["init_args"]["network"]
    assert network["init_args"].pop("second_time") is False, "a spec has it only where it is true"
    assert network == DiT(**expected).spec


@pytest.mark.parametrize("size", ["s", "b"])
def test_the_part_names_every_argument(size):
    """Once, DiT took over the dropout of the U-Net that it replaced: jsonargparse keeps arguments that both
    classes have.
    """
    content = yaml.safe_load((REPOSITORY / f"experiments/parts/networks/dit_{size}_32.yaml").read_text())
    named = set(content["model"]["init_args"]["network"]["init_args"])
    assert named == set(inspect.signature(DiT).parameters)
