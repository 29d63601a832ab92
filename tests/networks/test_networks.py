"""What every network can do: be compiled, exported, run in half precision, described and held to its
inputs.
"""

import pytest
import torch
from matrix import few
from tools import randomise, tiny_unet
from torch import nn
from torch.nn import functional as F

from flowlit.errors import FlowlitError
from flowlit.networks import (
    ADM,
    EDM,
    ClassifierFreeGuidance,
    DiffusionVelocity,
    DiT,
    EmpiricalFlow,
    SmallClassifier,
)
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.objectives import EDMLoss
from flowlit.paths import VE, DiscreteVP

SMALL = {"resolution": 8, "in_channels": 1, "dropout": 0.0}


def adm(**changes):
    settings = {
        "width": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_resolutions": (4,),
        "num_classes": 3,
    }
    return ADM(**{**SMALL, **settings, **changes})


def dit(**changes):
    return DiT(**{**SMALL, "width": 32, "depth": 2, "heads": 2, "num_classes": 3, **changes})


def diffusion():
    return DiffusionVelocity(tiny_unet(num_classes=3, time_scale=1.0), DiscreteVP())


VELOCITIES = {
    "unet": lambda: tiny_unet(num_classes=3),
    "unet, unconditional": tiny_unet,
    "unet, early label": lambda: tiny_unet(num_classes=3, early_label=True),
    "adm": adm,
    "dit, learned": dit,
    "dit, rotary": lambda: dit(positions="rotary"),
    "edm": lambda: EDM(tiny_unet(num_classes=3, time_scale=1.0, early_label=True)),
    "edm of adm": lambda: EDM(adm(time_scale=1.0)),
    "diffusion": diffusion,
    "unet, second time": lambda: tiny_unet(num_classes=3, second_time=True),
    "adm, second time": lambda: adm(second_time=True),
    "dit, second time": lambda: dit(second_time=True),
    "edm, second time": lambda: EDM(tiny_unet(time_scale=1.0, second_time=True)),
    "guidance": lambda: ClassifierFreeGuidance(tiny_unet(num_classes=3, label_dropout=0.1), 2.0),
}


def inputs(network, batch=4):
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(batch, 1, 8, 8, generator=generator), torch.linspace(0.03, 0.97, batch)
    cond = {"label": torch.arange(batch) % 3} if network.num_classes else {}
    return x, t, {**cond, "r": 1 - 0.1 * t} if "r" in network.reads else cond


@pytest.fixture(params=VELOCITIES, ids=str)
def network(request):
    return randomise(VELOCITIES[request.param]()).eval()


def close(a, b, tolerance=1e-5):
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.slow
def test_compiled(network):
    with torch.no_grad():
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        assert close(compiled(*inputs(network)), network(*inputs(network)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "adm", "dit, learned"])
def test_compiled_by_inductor(kind):
    network = randomise(VELOCITIES[kind]()).eval()
    keys = list(network.state_dict())
    expected = network(*inputs(network))
    network.compile()
    assert close(network(*inputs(network)), expected)
    assert list(network.state_dict()) == keys


EXPORTED = ("unet", "edm of adm")
"""Kinds that are exported with the fast tests."""


@pytest.mark.parametrize("network", few([*EXPORTED, *sorted(VELOCITIES.keys() - EXPORTED)], 2), indirect=True)
def test_exported(network):
    batch = torch.export.Dim("batch")
    cond = {name: {0: batch} for name in network.reads}
    with torch.no_grad():
        program = torch.export.export(network, inputs(network), dynamic_shapes=({0: batch}, {0: batch}, cond))
        for rows in (4, 7):
            assert close(program.module()(*inputs(network, rows)), network(*inputs(network, rows)))


def test_trained_in_half_precision(network):
    """Autocast: weights, gradients and what must be accurate stay float32."""
    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(*inputs(network))
    output.float().square().mean().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())
    assert close(output.float(), network.float()(*inputs(network)), 0.1)


@pytest.mark.parametrize("kind", ["unet", "adm", "dit, learned", "dit, rotary"])
def test_bug_half_precision_weights_kept_their_frequencies(kind):
    """``network.bfloat16()`` rounded the frequencies of 999 t, too: embeddings were off by a fifth."""
    network = randomise(VELOCITIES[kind]()).eval()
    x, t, cond = inputs(network)
    expected, embedding = network(x, t, cond), network.time(t)
    network.bfloat16()
    assert network.time.frequencies.dtype == torch.float32
    assert close(network.time(t).float(), embedding, 0.02)
    assert close(network(x.bfloat16(), t, cond).float(), expected, 0.15)


def test_norms_are_computed_in_float32():
    """GroupNorm of values around 300 with differences of 1: bfloat16 has no digits left for them."""
    network = randomise(tiny_unet()).eval()
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert norms
    x = (300 + torch.randn(2, norms[0].num_channels, 8, 8)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = norms[0](x).float()
    expected = F.group_norm(x.float(), norms[0].num_groups, norms[0].weight, norms[0].bias, norms[0].eps)
    assert (found - expected).abs().max() <= 2**-8 * expected.abs().max()


@pytest.mark.parametrize("kind", ["unet", "adm", "dit, learned", "edm"])
def test_neighbouring_times_stay_apart_in_half_precision(kind):
    """0.9 and 0.901 are one number in bfloat16; 999 t, its sines and the layers after them are float32."""
    network = randomise(VELOCITIES[kind]()).eval()
    embedding = (network.network if isinstance(network, EDM) else network).time
    a, b = torch.tensor([0.9]), torch.tensor([0.901])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embedding(a) - embedding(b)
    expected = embedding(a) - embedding(b)
    assert torch.equal(found, expected) and expected.abs().max() > 0


def test_described(network):
    again = build(spec(network), nn.Module).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(*inputs(network)), network(*inputs(network)))


def test_labels_out_of_range_are_refused(network):
    x, t, cond = inputs(network)
    for label in (5, -1):
        with pytest.raises(
            FlowlitError, match=r"labels run from .*knows 3 classes" if "label" in cond else "unconditional"
        ):
            network(x, t, {"label": torch.full((4,), label)})


def test_labels_where_none_belong_and_the_reverse(network):
    x, t, cond = inputs(network)
    conditional = "label" in cond
    expected = "cond has no 'label'|cond is empty" if conditional else "unconditional"
    with pytest.raises(FlowlitError, match=expected):
        network(x, t, {} if conditional else {"label": torch.zeros(4, dtype=torch.int64)})


def test_images_of_another_shape_are_refused(network):
    with pytest.raises(FlowlitError, match=r"built for images of shape \(1, 8, 8\), found \(1, 16, 16\)"):
        network(torch.zeros(4, 1, 16, 16), *inputs(network)[1:])


def test_the_classifier_and_the_oracle_are_exported_too():
    classifier, x = SmallClassifier(dim=8).eval(), torch.randn(4, 1, 8, 8)
    assert close(torch.export.export(classifier, (x,)).module()(x), classifier(x))
    assert close(torch.compile(classifier, backend="aot_eager", fullgraph=True)(x), classifier(x))
    oracle, t = EmpiricalFlow(torch.randn(5, 1, 8, 8)), torch.full((4,), 0.5)
    assert close(torch.export.export(oracle, (x, t)).module()(x, t), oracle(x, t))
    assert close(torch.compile(oracle, backend="aot_eager", fullgraph=True)(x, t), oracle(x, t))


# -- ADM


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 80_685_315),
        ({"multipliers": (1, 2, 2, 2)}, 44_685_827),
        (
            {"width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention_resolutions": (32, 16, 8)},
            295_899_267,
        ),
    ],
    ids=str,
)
def test_sizes_of_adm(settings, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in ADM(**settings).parameters()) == parameters


def test_a_fresh_adm_returns_nothing():
    network = adm()
    assert not network(*inputs(network)).any()


def test_levels_of_adm_narrower_than_a_head_have_no_attention():
    with_, without = adm(width=64), adm(width=32, multipliers=(1, 1))
    assert any("attention" in name for name in with_.state_dict())
    assert not any("attention" in name for name in without.state_dict())


def test_every_parameter_of_adm_gets_a_gradient():
    network = randomise(adm())
    network(*inputs(network)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


# -- bugs that were found by reading


def make(cmd):
    """What a description must not be able to call."""
    raise AssertionError(f"called with {cmd}")


@pytest.mark.parametrize(
    "inner",
    [
        {"class_path": f"{__name__}.make", "init_args": {"cmd": "hi"}},
        f"{__name__}.make",
        {"class_path": "torch.load"},
        [1],
    ],
    ids=str,
)
def test_bug_a_description_could_call_a_function_inside(inner):
    with pytest.raises(FlowlitError, match="checkpoint"):
        build({"class_path": "flowlit.networks.EDM", "init_args": {"network": inner}}, nn.Module)


@pytest.mark.parametrize("description", [[1], "flowlit.networks.UNet", None, {}], ids=str)
def test_a_description_of_another_kind_is_refused(description):
    with pytest.raises(FlowlitError, match="checkpoint"):
        build(description, nn.Module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_edm_takes_any_precision(dtype):
    network = randomise(VELOCITIES["edm"]()).eval()
    x, t, cond = inputs(network)
    expected, denoised = network(x, t, cond), network.denoiser(x, 0.7, cond)
    tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 0.1
    for weights in (torch.float32, dtype if dtype.itemsize < 4 else torch.float32):
        network.to(weights)
        found = network(x.to(dtype), t.to(dtype) if dtype == torch.float64 else t, cond)
        assert found.dtype == dtype and close(found.float(), expected, tolerance)
        for sigma in (
            0.7,
            torch.tensor([0.7]),
            torch.full((4,), 0.7),
            torch.full((4, 1, 1, 1), 0.7, dtype=torch.float64),
        ):
            again = network.denoiser(x.to(dtype), sigma, cond)
            assert again.dtype == dtype and close(again.float(), denoised, tolerance)


def test_edm_at_the_very_ends_is_what_its_network_says():
    """t = 0: F is given the noise as it is and told 80; t = 1: the data in its own units, and 0.002."""
    network = randomise(VELOCITIES["edm"]()).eval()
    x, _, cond = inputs(network)
    for t, scaled, sigma, v in ((0.0, x, 80.0, lambda f: -x + 0.5 * f), (1.0, 2 * x, 0.002, lambda f: x + f)):
        told = torch.full((4,), sigma).log() / 4
        expected = v(network.network(scaled, told, cond))
        assert close(network(x, torch.full((4,), t), cond), expected, 1e-5)


def test_edm_around_a_network_of_another_scale_is_refused():
    with pytest.raises(FlowlitError, match="time_scale 1"):
        EDM(tiny_unet())
    with pytest.raises(FlowlitError, match="time_scale 1"):
        EDM(adm())


def test_the_loss_of_edm_must_assume_the_same_data():
    class Module(nn.Module):
        network = EDM(tiny_unet(time_scale=1.0), sigma_data=0.75)

    EDMLoss(sigma_data=0.75).on_attach(Module())
    with pytest.raises(FlowlitError, match=r"0\.5, but the network's is 0\.75"):
        EDMLoss().on_attach(Module())


@pytest.mark.parametrize(
    "label",
    [
        F.one_hot(torch.arange(4) % 3),
        F.one_hot(torch.arange(4) % 3).float(),
        torch.zeros(4),
        torch.zeros(4, 1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
    ],
    ids=["one-hot", "float one-hot", "float", "column", "one"],
)
def test_labels_of_another_shape_are_refused(label):
    for kind in ("unet", "adm", "dit, learned"):
        network = VELOCITIES[kind]().eval()
        x, t, _ = inputs(network)
        with pytest.raises(FlowlitError, match=r"expected whole numbers \(4,\)"):
            network(x, t, {"label": label})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32], ids=str)
def test_labels_of_any_whole_type_do(dtype):
    network = randomise(VELOCITIES["unet"]()).eval()
    x, t, cond = inputs(network)
    assert torch.equal(network(x, t, {"label": cond["label"].to(dtype)}), network(x, t, cond))


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.zeros(4, 1)], ids=str)
def test_times_of_another_shape_are_refused(t):
    for kind in ("unet, unconditional", "adm", "dit, learned"):
        network = VELOCITIES[kind]().eval()
        x, _, cond = inputs(network)
        with pytest.raises(FlowlitError, match=r"expected times \(B,\)"):
            network(x, t, cond)


def test_conditions_that_nobody_looks_at_are_refused(network):
    x, t, cond = inputs(network)
    with pytest.raises(FlowlitError, match="looks at nothing but 'label'"):
        network(x, t, {**cond, "lr": x})


@pytest.mark.parametrize(
    "wrong",
    [
        {"multipliers": ()},
        {"multipliers": (0, 1)},
        {"blocks": 0},
        {"num_classes": -1},
        {"num_classes": 3, "label_dropout": 2.0},
        {"width": 200, "multipliers": (1,), "attention_resolutions": (8,)},
    ],
    ids=str,
)
def test_sizes_that_make_no_network_are_refused(wrong):
    with pytest.raises(FlowlitError):
        adm(**wrong)


def test_guidance_of_an_unconditional_network_is_refused():
    with pytest.raises(FlowlitError, match="unconditional"):
        ClassifierFreeGuidance(tiny_unet(), 2.0)


def test_bug_evaluations_of_nested_wrappers_were_not_multiplied():
    inner = tiny_unet(num_classes=3, label_dropout=0.1, time_scale=1.0)
    guided = ClassifierFreeGuidance(inner, 2.0)
    assert guided.evaluations == 2
    assert EDM(guided).evaluations == 2
    assert ClassifierFreeGuidance(guided, 2.0).evaluations == 4


def test_bug_a_rotary_transformer_built_on_meta_had_no_angles():
    network = randomise(VELOCITIES["dit, rotary"]()).eval()
    with torch.device("meta"):
        empty = VELOCITIES["dit, rotary"]()
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(network.state_dict())
    assert torch.equal(empty(*inputs(network)), network(*inputs(network)))


@pytest.mark.parametrize("kind", ["unet", "adm"])
def test_networks_built_on_meta(kind):
    network = randomise(VELOCITIES[kind]()).eval()
    with torch.device("meta"):
        empty = VELOCITIES[kind]()
    empty = empty.to_empty(device="cpu").eval()
    empty.load_state_dict(network.state_dict())
    assert torch.equal(empty(*inputs(network)), network(*inputs(network)))


def test_double_precision_is_double():
    network = randomise(VELOCITIES["unet"]()).eval().double()
    x, t, cond = inputs(network)
    x, t = x.double(), t.double()
    step = 1e-6
    ahead, back = network(x, t + step, cond), network(x, t - step, cond)
    middle = (network(x, t + 2 * step, cond) - network(x, t - 2 * step, cond)) / 2
    assert close((ahead - back) / step, middle / step, 1e-3), "differences of times that float32 does not see"


def test_unknown_words_of_diffusions_are_refused():
    for wrong in (lambda: DiscreteVP(schedule="foo"), lambda: VE(conditioning="foo")):
        with pytest.raises(FlowlitError, match="foo"):
            wrong()
