"""Another clock: a time embedding that is fitted anew, so that derivatives by time are smooth."""

import pytest
import torch
from matrix import few
from tools import randomise, tiny_unet, write_checkpoint

from flowlit.errors import FlowlitError
from flowlit.networks import ADM, EDM, ConcatenatedImage, DiT, EmpiricalFlow, pretrained
from flowlit.networks.checkpoints.fingerprint import fingerprint
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.clock import reembedded
from flowlit.solvers import RK4

BUILDERS = {
    "unet": tiny_unet,
    "adm": lambda **more: ADM(8, 1, 32, (1, 2), 1, (4,), num_classes=0, **more),
    "dit": lambda **more: DiT(8, 1, width=32, depth=2, heads=2, **more),
    "wrapped": lambda **more: ConcatenatedImage(tiny_unet(**more)),
}


def smooth(kind="unet", **changes):
    """A network whose times are scaled by 8: its embedding is smooth enough to be fitted in no time."""
    torch.manual_seed(0)
    return randomise(BUILDERS[kind](time_scale=8.0, **changes), scale=0.1).eval()


@pytest.mark.parametrize("kind", few(BUILDERS, 1))
def test_endpoints_stay_and_every_other_weight(kind):
    network = smooth(kind)
    before = fingerprint(network)
    again, difference = reembedded(network, 1.0, steps=500)
    assert fingerprint(network) == before and difference < 0.05
    old, new = network.state_dict(), again.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed and all("time.layers" in name for name in changed)
    x0 = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = {"image": x0.flip(0)} if kind == "wrapped" else {}
    with torch.no_grad():
        ends = [RK4(8)(velocity, x0, cond).x1 for velocity in (network, again)]
    assert (ends[0] - ends[1]).square().mean().sqrt() < 0.03 * (ends[0] - x0).square().mean().sqrt()


@pytest.mark.slow
def test_from_999_endpoints_move_less_than_those_of_the_digits_teacher():
    """Whose ends moved by 0.018 of the 1.3 from noise to data; a fit of 60 steps moves these by 3 %."""
    torch.manual_seed(0)
    network = randomise(tiny_unet(), scale=0.1).eval()
    assert network.time.scale == 999
    again, difference = reembedded(network)
    assert difference < 0.03 and again.time.scale == 1
    x0 = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [RK4(8)(velocity, x0, {}).x1 for velocity in (network, again)]
    way = (ends[0] - x0).square().mean().sqrt()
    assert (ends[0] - ends[1]).square().mean().sqrt() < 0.018 / 1.3 * way


def test_it_describes_itself_and_is_the_same_each_time():
    network = smooth()
    again, _ = reembedded(network, 1.0, steps=3)
    assert again.spec["init_args"]["time_scale"] == 1.0 and network.spec["init_args"]["time_scale"] == 8.0
    built = build(spec(again), torch.nn.Module)
    built.load_state_dict(again.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        assert torch.equal(built.eval()(x, t), again(x, t))
    assert fingerprint(reembedded(network, 1.0, steps=3)[0]) == fingerprint(again)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: EDM(tiny_unet(time_scale=1.0)), "noise levels and not times"),
        (lambda: tiny_unet(num_classes=3, early_label=True), "early_label: true"),
        (lambda: EmpiricalFlow(torch.randn(4, 1, 8, 8)), "expected UNet, ADM or DiT"),
    ],
)
def test_networks_with_another_clock_are_refused(network, why):
    with pytest.raises(FlowlitError, match=why):
        reembedded(network())


def test_convert_changes_a_clock_and_names_the_difference(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(reembedded.__kwdefaults__, "steps", 100)
    write_checkpoint(tmp_path / "c.ckpt", smooth())
    shown = cli(
        "convert", tmp_path / "c.ckpt", "--into", tmp_path / "c.safetensors", "--clock", 1, "--weights", "raw"
    )
    assert shown.code == 0, shown.err
    assert "time_scale 1: embeddings differ by 0." in shown.out
    flow_map = tiny_unet(time_scale=1.0, second_time=True)
    again = pretrained(str(tmp_path / "c.safetensors"), "raw", flow_map)
    assert again.report.new and again.time.scale == 1


def test_convert_refuses_a_clock_where_there_is_no_place_for_it(cli, tmp_path):
    write_checkpoint(tmp_path / "c.ckpt", smooth())
    command = ("convert", tmp_path / "c.ckpt", "--into", tmp_path / "c.pth", "--layout", "slimflow")
    assert "--clock: expected one network's checkpoint" in cli(*command, "--clock", "1").error


def test_a_checkpoint_is_not_read_into_a_network_with_another_clock(tmp_path):
    write_checkpoint(tmp_path / "c.ckpt", smooth())
    with pytest.raises(FlowlitError, match=r"time_scale 8, found 999; .* flowlit convert .* --clock 999"):
        pretrained(str(tmp_path / "c.ckpt"), "raw", tiny_unet())
