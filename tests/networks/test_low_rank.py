"""Changes of low rank: what is trained, what they are merged to, and how checkpoints hold them."""

import pytest
import tiny
import torch
from commandline import in_process
from pipelines import CONFIG, texts
from torch import nn

import flowlit
from flowlit.errors import FlowlitError
from flowlit.networks import DiffusersUNet, LowRank, UNet
from flowlit.networks.checkpoints.spec import build, spec

pytest.importorskip("peft", reason="flowlit[text] is not installed")
pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
LAYERS = ["stem"]
NETWORK = {
    "class_path": "flowlit.networks.LowRank",
    "init_args": {"network": tiny.unet(), "rank": 2, "layers": LAYERS},
}


def inputs(rows=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, 8, 8, generator=generator), torch.rand(rows, generator=generator)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return DiffusersUNet(CONFIG).eval()


@pytest.fixture
def changed(unet):
    """One whose changes are not zero any more."""
    torch.manual_seed(2)
    network = LowRank(unet, 4, 8.0).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return network


def test_it_begins_as_the_network_inside_and_trains_the_changes_alone(unet):
    x, t = inputs()
    network = LowRank(unet, 4).eval()
    assert not any("lora_" in name for name in unet.state_dict()), "the network that was given is as it was"
    assert all(p.requires_grad for p in unet.parameters())
    assert torch.equal(network(x, t, {"text": texts(3)}), unet(x, t, {"text": texts(3)}))
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    attention = [name for name in dict(unet.named_modules()) if name.endswith(("to_q", "to_k", "to_v"))]
    outputs = [name for name in dict(unet.named_modules()) if name.endswith("to_out.0")]
    assert len(trained) == 2 * (len(attention) + len(outputs))


def test_merged_is_the_same_network_in_the_form_of_the_one_inside(unet, changed):
    x, t = inputs()
    merged = changed.merged()
    assert type(merged) is DiffusersUNet and set(merged.state_dict()) == set(unet.state_dict())
    expected = changed(x, t, {"text": texts(3)})
    torch.testing.assert_close(merged(x, t, {"text": texts(3)}), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(unet(x, t, {"text": texts(3)}), expected, atol=1e-3)
    assert torch.equal(changed(x, t, {"text": texts(3)}), expected), "the original is as it was"


def test_its_change_is_that_of_the_paper():
    """W + α/r · B A, written out for a layer of ours."""
    torch.manual_seed(0)
    inside = nn.Sequential()
    inside.add_module("stem", nn.Linear(3, 5))
    weight = inside.stem.weight.detach().clone()
    network = LowRank(inside, 2, 6.0, LAYERS)
    parts = dict(network.named_parameters())
    a, b = (next(p for name, p in parts.items() if f"lora_{side}" in name) for side in "AB")
    with torch.no_grad():
        b.normal_()
    torch.testing.assert_close(network.merged().stem.weight, weight + 3 * b @ a)


def test_the_spec_builds_it_again(changed):
    again = build(spec(changed), nn.Module)
    again.load_state_dict(changed.state_dict())
    x, t = inputs()
    assert torch.equal(again.eval()(x, t), changed(x, t))


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(FlowlitError, match=r"LowRank: layers \['nowhere'\] of UNet: .*give the names"):
        LowRank(UNet(**tiny.unet()["init_args"]), layers=["nowhere"])


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    for name, steps in (("whole", [4]), ("parts", [2, 4])):
        for number in steps:
            words = ["--resume", "auto"] if number != steps[0] else []
            content = tiny.fit(tmp_path / name, network=NETWORK, steps=number)
            outcome = in_process("fit", "-c", tiny.write(tmp_path / name / "run.yaml", content), *words)
            assert outcome.code == 0, outcome.err
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = [name for name in whole if name.startswith("network.") and "lora_B" in name]
    assert moved and all(whole[name].abs().sum() > 0 for name in moved)


def test_a_student_of_low_rank_is_exported_with_its_changes(tmp_path):
    content = tiny.fit(tmp_path, "OneStepStudent", NETWORK, steps=2)
    content["model"]["init_args"].pop("solvers")
    content["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.1
    assert in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content)).code == 0
    words = ("--to", "safetensors", "--into", tmp_path / "out.safetensors", "--weights", "raw")
    outcome = in_process("export", tmp_path, *words)
    assert outcome.code == 0, outcome.err
    out, own = flowlit.load(tmp_path / "out.safetensors"), flowlit.load(tmp_path, weights="raw")
    assert not any("lora" in name for name in out.network.state_dict())
    difference = out.sample(4, seed=0).int() - own.sample(4, seed=0).int()
    assert difference.abs().max() <= 1
