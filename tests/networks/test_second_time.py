"""A second time makes a velocity v(x, t) a flow map u(x, t, r), which begins as exactly that velocity."""

import logging

import pytest
import tiny
import torch
from matrix import few
from published import edm_state, slimflow_checkpoint
from published import randomise as randomised
from reference.edm_network import SongUNet
from reference.slimflow_network import NCSNpp
from tools import randomise, tiny_unet, write_checkpoint
from torch import Tensor, nn

from flowlit import rng
from flowlit._support.batch_invariance import BatchInvariant
from flowlit._support.cuda_graphs import kind_of
from flowlit._support.derivatives import along
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import ADM, EDM, ClassifierFreeGuidance, DiffusionVelocity, DiT, UNet, pretrained
from flowlit.networks.activation_checkpointing import recompute
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.checkpoints.write import write_slimflow
from flowlit.paths import ContinuousVP, expand
from flowlit.solvers import RK45, Euler
from flowlit.types import Objective, reads_of

NEW = {f"second_time.layers.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}


def adm(**changes):
    return ADM(8, 1, 32, (1, 2), 1, (4,), num_classes=0, **changes)


def dit(**changes):
    return DiT(8, 1, width=32, depth=2, heads=2, **changes)


BUILDERS = {
    "unet": tiny_unet,
    "adm": adm,
    "dit": dit,
    "edm": lambda **changes: EDM(tiny_unet(time_scale=1.0, **changes)),
    "diffusion": lambda scale=999.0, **changes: DiffusionVelocity(
        tiny_unet(**changes), ContinuousVP(scale=scale)
    ),
}


def velocity(kind, **changes):
    """A network with other weights than fresh ones, whose last layer may be zero."""
    return randomise(BUILDERS[kind](**changes)).eval()


def with_second_time(kind, network):
    """A second-time network that takes the weights of a velocity."""
    flow_map = BUILDERS[kind](second_time=True).eval()
    result = flow_map.load_state_dict(network.state_dict(), strict=False)
    assert {key.removeprefix("network.") for key in result.missing_keys} == NEW
    return flow_map


def batch(num=5):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(num, 1, 8, 8, generator=draw), torch.linspace(0.0, 1.0, num)


# told to the decoder alone


@pytest.mark.parametrize("kind", BUILDERS)
@torch.no_grad()
def test_a_decoder_that_is_told_r_has_no_weights_of_its_own_and_is_the_velocity_at_r_equal_to_t(kind):
    network = velocity(kind)
    flow_map = BUILDERS[kind](second_time="decoder").eval()
    flow_map.load_state_dict(network.state_dict())
    x, t = batch()
    assert reads_of(flow_map) == {"r"}
    for cond in ({"r": t}, {}):
        assert torch.equal(flow_map(x, t, cond), network(x, t))
    u = flow_map(x, t, {"r": t.flip(0)})
    middle = t == t.flip(0)
    assert torch.equal(u[middle], network(x, t)[middle])
    assert not torch.allclose(u[~middle], network(x, t)[~middle], atol=1e-3)


@torch.no_grad()
def test_the_decoder_sees_r_where_it_saw_t_also_inside_a_wrapper():
    """With an encoder that is blind to time, u(x, t, r) = F(x, r): in EDM up to its own factors of t."""
    for wrapped in (False, True):
        network = tiny_unet(second_time="decoder", **({"time_scale": 1.0} if wrapped else {}))
        randomise(network)
        for part in ("encoder", "bottleneck"):
            for stage in getattr(network, part):
                stage.block.affine.weight.zero_()
        x, t = batch()
        t = 0.1 + 0.8 * t
        if not wrapped:
            assert torch.allclose(network(x, t, {"r": t.flip(0)}), network(x, t.flip(0)), atol=1e-5)
            continue
        r = t.flip(0)
        expected = network(x, ((1 - r) / r).log() / 4)
        edm = EDM(network)
        q = expand((1 - t) ** 2 + (edm.sigma_data * t) ** 2, x)
        s = edm.sigma_data
        u = edm(x * q.sqrt(), t, {"r": r}) - (s**2 * expand(t, x) - (1 - expand(t, x))) / q.sqrt() * x
        assert torch.allclose(u * q.sqrt() / s, expected, atol=1e-4)


def test_a_label_is_dropped_for_encoder_and_decoder_alike():
    network = velocity("unet", num_classes=2, label_dropout=0.5, second_time="decoder").train()
    x, t = batch()
    label = torch.tensor([0, 1, 0, 1, 1])
    start, end = network.embed(x, t, {"label": label, "r": t})
    assert torch.equal(start, end)


@pytest.mark.parametrize(
    ("kind", "how"),
    few(
        [("edm", True), ("dit", "decoder"), *((kind, how) for kind in BUILDERS for how in (True, "decoder"))],
        2,
    ),
)
@torch.no_grad()
def test_forward_derivatives_are_those_of_central_differences(kind, how):
    smooth = {"edm": {}, "diffusion": {"scale": 1.0, "time_scale": 1.0}}
    changes = smooth.get(kind, {"time_scale": 1.0})
    flow_map = velocity(kind, second_time=how, **changes).double()
    x, t = (value.double() for value in batch(3))
    t = 0.3 + 0.4 * t
    r = 0.2 + t
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)

    def u(*point):
        return flow_map(point[0], point[1], {"r": point[2]})

    for directions in ((v, torch.ones_like(t), 0 * r), (0 * x, 0 * t, torch.ones_like(r))):
        value, slope = along(u, (x, t, r), directions)
        ahead, behind = (
            u(*(p + sign * 1e-3 * d for p, d in zip((x, t, r), directions, strict=True))) for sign in (1, -1)
        )
        assert torch.allclose(value, u(x, t, r), atol=1e-9)
        assert (slope - (ahead - behind) / 2e-3).abs().max() < 1e-3 * slope.abs().max()
        assert slope.abs().max() > 1e-3


def test_forward_derivatives_are_taken_where_activations_are_computed_again():
    flow_map = velocity("unet", second_time=True, time_scale=1.0).train()
    x, t = batch(3)

    def slope():
        return along(lambda r: flow_map(x, t, {"r": r}), (1 - t,), (torch.ones_like(t),))[1]

    expected = slope()
    recompute(flow_map)
    torch.testing.assert_close(slope(), expected)


def test_forward_derivatives_have_gradients():
    """Of a derivative by r: what ``Lagrangian`` learns from."""
    flow_map = velocity("unet", second_time=True, time_scale=1.0).double()
    x, t = (value.double() for value in batch(3))
    _, slope = along(lambda r: flow_map(x, t, {"r": r}), (1 - t,), (torch.ones_like(t),))
    slope.square().mean().backward()
    weight = flow_map.second_time.layers[2].weight
    gradient = weight.grad[0, 0].clone()
    losses = []
    for change in (1e-5, -2e-5):
        with torch.no_grad():
            weight[0, 0] += change
            _, slope = along(lambda r: flow_map(x, t, {"r": r}), (1 - t,), (torch.ones_like(t),))
            losses.append(slope.square().mean())
    assert torch.allclose(gradient, (losses[0] - losses[1]) / 2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", BUILDERS)
@torch.no_grad()
def test_with_the_weights_of_a_velocity_it_is_that_velocity_for_every_r(kind):
    network = velocity(kind)
    flow_map = with_second_time(kind, network)
    x, t = batch()
    for r in (torch.zeros(5), torch.ones(5), t, t.flip(0)):
        assert torch.equal(flow_map(x, t, {"r": r}), network(x, t))
    assert reads_of(flow_map) == {"r"} and reads_of(network) == frozenset()


@pytest.mark.parametrize("kind", BUILDERS)
@torch.no_grad()
def test_without_r_it_is_the_velocity_at_r_equal_to_t(kind):
    flow_map = velocity(kind, second_time=True)
    x, t = batch()
    assert torch.equal(flow_map(x, t), flow_map(x, t, {"r": t}))
    assert not torch.allclose(flow_map(x, t), flow_map(x, t, {"r": t.flip(0)}))


def test_the_denoiser_of_a_flow_map_has_the_velocity_s_second_time():
    flow_map = velocity("edm", second_time=True)
    x, t = batch()
    t = 0.2 + 0.6 * t
    sigma = (1 - t) / t
    with torch.no_grad():
        denoised = flow_map.denoiser(x / expand(t, x), sigma)
        assert torch.allclose((denoised - x) / expand(1 - t, x), flow_map(x, t), atol=1e-4)


@pytest.mark.parametrize("make", [UNet, ADM, DiT])
def test_off_it_changes_no_parameter_no_draw_and_no_spec(make):
    arguments = {"resolution": 16, "width": 32, **({"depth": 2, "heads": 2} if make is DiT else {})}

    def fresh(**more):
        torch.manual_seed(0)
        return make(**arguments, **more)

    off, on = fresh(), fresh(second_time=True)
    assert list(off.state_dict()) == [name for name in on.state_dict() if name not in NEW]
    assert all(torch.equal(value, on.state_dict()[name]) for name, value in off.state_dict().items())
    assert "second_time" not in off.spec["init_args"] and on.spec["init_args"]["second_time"] is True
    assert off.spec == fresh(second_time=False).spec
    assert "second_time" not in identity(off)


def test_a_derivative_by_r_and_a_gradient_reach_the_second_time():
    flow_map = velocity("unet", second_time=True)
    x, t = batch()
    r = t.flip(0)
    with torch.no_grad():
        _, slope = along(lambda end: flow_map(x, t, {"r": end}), (r,), (torch.ones_like(r),))
        step = 1e-2
        ahead, behind = (flow_map(x, t, {"r": r + sign * step}) for sign in (1, -1))
    assert (slope - (ahead - behind) / (2 * step)).abs().max() < 0.02 * slope.abs().max()
    fresh = with_second_time("unet", velocity("unet"))
    fresh(x, t, {"r": r}).square().mean().backward()
    assert fresh.second_time.layers[2].weight.grad.abs().max() > 0


# conditions


@pytest.mark.parametrize("kind", BUILDERS)
def test_conditions_that_a_network_does_not_read_are_refused_by_name(kind):
    x, t = batch()
    with pytest.raises(FlowlitError, match="cond has r, but this network looks at nothing but 'label'") as e:
        velocity(kind)(x, t, {"r": t})
    assert "second_time: true" in str(e.value)
    with pytest.raises(FlowlitError, match=r"cond has lr, text, .* nothing but 'label' and 'r'$"):
        velocity(kind, second_time=True)(x, t, {"text": x, "lr": x, "r": t})


@pytest.mark.parametrize("r", [0.5, torch.tensor(1.0), torch.ones(1), torch.ones(5, 1)], ids=str)
def test_second_times_of_another_shape_are_refused(r):
    x, t = batch()
    with pytest.raises(FlowlitError, match=r"expected second times r \(B,\), one for each image of 5, found"):
        velocity("unet", second_time=True)(x, t, {"r": r})


@torch.no_grad()
def test_guidance_drops_the_label_alone():
    network = velocity("unet", num_classes=3, label_dropout=0.1, second_time=True)
    x, t = batch()
    r, label = t.flip(0), torch.tensor([0, 1, 2, 1, 0])
    guided = ClassifierFreeGuidance(network, 3.0)
    free, labelled = network(x, t, {"r": r}), network(x, t, {"r": r, "label": label})
    assert torch.allclose(guided(x, t, {"r": r, "label": label}), free + 3 * (labelled - free), atol=1e-5)
    assert not torch.allclose(free, network(x, t, {}))
    assert reads_of(guided) == {"label", "r"}
    with pytest.raises(FlowlitError, match="nothing to guide with, cond has no 'label'"):
        guided(x, t, {"r": r})


@torch.no_grad()
def test_what_holds_a_network_passes_r_on():
    flow_map = velocity("unet", second_time=True)
    x, t = batch(19)
    cond = {"r": t.flip(0)}
    expected = flow_map(x, t, cond)
    for held in (Frozen(flow_map), BatchInvariant(flow_map)):
        assert torch.allclose(held(x, t, cond), expected, atol=1e-5)
    assert kind_of(x, t, cond) != kind_of(x, t, {}), "a graph without r must not replay a batch with it"


@torch.no_grad()
def test_an_adaptive_solver_slices_r_with_the_rows_that_go_on():
    flow_map = velocity("unet", second_time=True)
    x, r = batch(6)[0], torch.linspace(0, 1, 6)
    together = RK45(1e-3, 1e-3)(flow_map, x, {"r": r})
    for i in range(6):
        alone = RK45(1e-3, 1e-3)(flow_map, x[i : i + 1], {"r": r[i : i + 1]})
        assert torch.allclose(alone.x1[0], together.x1[i], atol=1e-2)


# training


class LinearMap(Objective):
    """The map of dx/dt = x, which is known: u(x, t, r) = x · (exp(r - t) - 1) / (r - t)."""

    def forward(self, velocity, pair):
        t, r = (rng.rand(len(pair.x0), pair.x0.device) for _ in range(2))
        span = expand(r - t, pair.x0)
        target = pair.x0 * torch.where(span == 0, 1.0, torch.expm1(span) / span)
        u = velocity(pair.x0, t, {**pair.cond, "r": r})
        return {"loss": (u - target).square().mean()}


def jump(network: nn.Module, x: Tensor) -> Tensor:
    """From noise to data by one evaluation."""
    return x + network(x, torch.zeros(len(x)), {"r": torch.ones(len(x))})


def test_a_flow_map_is_trained_and_read_again(tmp_path):
    torch.manual_seed(0)
    module = FlowModule(
        tiny_unet(multipliers=(1,), attention_resolutions=(), second_time=True),
        LinearMap(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-2),
        solvers={"euler1": Euler(1)},
    )
    data = FlowDataModule(Independent(Digits(labels=False)), 16, SeededNoise(tiny.SHAPE, 8))
    trainer = tiny.trainer(tmp_path, 120, limit_val_batches=0)
    trainer.fit(module, data)
    network = module.network.eval()
    x = torch.randn(64, *tiny.SHAPE)
    with torch.no_grad():
        one_jump = (jump(network, x) - torch.e * x).square().mean().sqrt()
        one_step = (Euler(1)(network, x).x1 - torch.e * x).square().mean().sqrt()
    assert one_jump < 0.5 * one_step
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = pretrained(str(tmp_path / "last.ckpt"), "raw")
    assert again.report.new == [] and again.spec["init_args"]["second_time"] is True
    with torch.no_grad():
        assert torch.equal(jump(again, x), jump(network, x))


# weights


def test_a_spec_builds_it_again():
    for kind in BUILDERS:
        flow_map = velocity(kind, second_time=True)
        again = build(spec(flow_map), nn.Module).eval()
        again.load_state_dict(flow_map.state_dict())
        x, t = batch()
        with torch.no_grad():
            assert torch.equal(again(x, t, {"r": 1 - t}), flow_map(x, t, {"r": 1 - t}))


def is_reported(flow_map, caplog, prefix=""):
    zeros = {f"{prefix}second_time.layers.2.weight (zeros)", f"{prefix}second_time.layers.2.bias (zeros)"}
    assert zeros < set(flow_map.report.new) and len(flow_map.report.new) == 4
    assert flow_map.report.missing == [] and flow_map.report.differences() == ""
    assert "new: " + min(zeros) in str(flow_map.report)
    for text in (*zeros, "velocity without a second time", "u(x, t, r) = v(x, t)"):
        assert text in caplog.text
    return True


def test_a_velocity_of_ours_initialises_a_flow_map(tmp_path, caplog):
    network = velocity("unet")
    write_checkpoint(tmp_path / "c.ckpt", network)
    with caplog.at_level(logging.WARNING, logger="flowlit"):
        flow_map = pretrained(str(tmp_path / "c.ckpt"), "raw", tiny_unet(second_time=True))
    assert is_reported(flow_map, caplog)
    x, t = batch()
    with torch.no_grad():
        assert torch.equal(flow_map(x, t, {"r": torch.ones(5)}), network(x, t))


def test_a_velocity_of_ours_enters_a_network_whose_decoder_is_told_r(tmp_path, caplog):
    network = velocity("unet")
    write_checkpoint(tmp_path / "c.ckpt", network)
    with caplog.at_level(logging.WARNING, logger="flowlit"):
        flow_map = pretrained(str(tmp_path / "c.ckpt"), "raw", tiny_unet(second_time="decoder"))
    assert flow_map.report.new == [] and "u(x, t, t) = v(x, t)" in caplog.text
    x, t = batch()
    with torch.no_grad():
        assert torch.equal(flow_map(x, t, {"r": t}), network(x, t))
    write_checkpoint(tmp_path / "d.ckpt", flow_map)
    caplog.clear()
    again = pretrained(str(tmp_path / "d.ckpt"), "raw")
    assert again.spec["init_args"]["second_time"] == "decoder" and not caplog.text


def test_a_velocity_of_slimflow_initialises_a_flow_map(tmp_path, caplog):
    slimflow_checkpoint(tmp_path / "c.pth", randomised(NCSNpp(16, (1, 2), 1, 16)))
    given = UNet(16, width=16, multipliers=(1, 2), blocks=1, second_time=True)
    flow_map = pretrained(str(tmp_path / "c.pth"), "raw", given)
    plain = pretrained(str(tmp_path / "c.pth"), "raw", UNet(16, width=16, multipliers=(1, 2), blocks=1))
    assert is_reported(flow_map, caplog)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.8])
    with torch.no_grad():
        assert torch.equal(flow_map(x, t, {"r": torch.ones(2)}), plain(x, t))


def test_a_denoiser_of_edm_initialises_a_flow_map(tmp_path, caplog):
    edm_state(tmp_path / "c.pt", randomised(SongUNet(16, (1, 2), 1, 32)))
    settings = {"width": 16, "multipliers": (1, 2), "blocks": 1, "time_scale": 1.0, "early_label": True}
    flow_map = pretrained(str(tmp_path / "c.pt"), network=UNet(32, second_time=True, **settings))
    assert type(flow_map) is EDM and is_reported(flow_map, caplog, "network.")


def test_part_of_a_second_time_is_missing_as_ever(tmp_path):
    flow_map = velocity("unet", second_time=True)
    write_checkpoint(tmp_path / "c.ckpt", flow_map)
    content = torch.load(tmp_path / "c.ckpt", weights_only=True)
    del content["state_dict"]["network.second_time.layers.0.bias"]
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(FlowlitError, match=r"1 missing there: second_time\.layers\.0\.bias"):
        pretrained(str(tmp_path / "c.ckpt"), "raw")


def test_a_flow_map_does_not_become_a_velocity_in_silence(tmp_path):
    write_checkpoint(tmp_path / "c.ckpt", velocity("unet", second_time=True))
    with pytest.raises(FlowlitError, match=r"4 unknown here: second_time\.layers\.0\.weight"):
        pretrained(str(tmp_path / "c.ckpt"), "raw", tiny_unet())


@pytest.mark.parametrize("make", [lambda **more: UNet(16, width=16, multipliers=(1, 2), **more), adm])
def test_the_layout_of_slimflow_has_no_place_for_it(make, tmp_path):
    flow_map = make(second_time=True)
    with pytest.raises(FlowlitError, match=r"no place for 4 tensors of \w+: second_time\.layers\.0\.bias"):
        write_slimflow(flow_map, flow_map, tmp_path / "c.pth", {})
