"""U-Nets of diffusers as networks: times, signs, texts, guidance, and the diffusions of their training."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from pipelines import CONFIG, TEXT, texts
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.networks import ClassifierFreeGuidance, DiffusersUNet, DiffusionVelocity, Pruned
from flowlit.networks.activation_checkpointing import recompute
from flowlit.networks.checkpoints.layouts.diffusers import diffusion_of
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.skipping import removable, skipping
from flowlit.types import evaluations_of

diffusers = pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def unet() -> DiffusersUNet:
    torch.manual_seed(0)
    network = DiffusersUNet(CONFIG).eval()
    network.null_text.normal_()
    return network


def draw(rows: int = 3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, 8, 8, generator=generator), torch.rand(rows, generator=generator)


class Given(nn.Module):
    """A network that returns what it was given, and keeps its inputs."""

    def forward(self, x, t, cond={}):
        self.inputs = x, t
        return self.output


@pytest.mark.parametrize(("predicts", "sign"), [("velocity", 1), ("flow", -1), ("diffusion", 1)])
def test_the_model_gets_time_and_text_as_it_is_said(unet, predicts, sign):
    network = copy.deepcopy(unet)
    network.predicts = predicts
    x, t = draw()
    time = t if predicts == "diffusion" else 1000 * (1 - t)
    expected = sign * unet.model(x, time, encoder_hidden_states=texts(3)).sample
    assert torch.equal(network(x, t, {"text": texts(3)}), expected)


def test_rows_without_text_read_the_empty_one(unet):
    x, t = draw()
    null = unet.null_text.expand(3, *TEXT)
    assert torch.equal(unet(x, t), unet(x, t, {"text": null}))
    assert not torch.equal(unet(x, t), unet(x, t, {"text": texts(3)}))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 6.0])
def test_guidance_is_that_of_instaflow(unet, scale):
    x, t = draw()
    guide = ClassifierFreeGuidance(unet, scale)
    expected = scale * unet(x, t, {"text": texts(3)}) + (1 - scale) * unet(x, t)
    torch.testing.assert_close(guide(x, t, {"text": texts(3)}), expected, atol=1e-5, rtol=1e-4)
    assert evaluations_of(guide) == (1 if scale in (0, 1) else 2)
    with pytest.raises(FlowlitError, match="nothing to guide with, cond is empty"):
        guide(x, t)


@pytest.mark.parametrize("word", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("step", [0, 1, 400, 998, 999])
def test_one_image_and_its_noise_in_diffusers_own_schedule(word, step):
    """What stock diffusers calls the target of a step, as a network, is data - noise on the straight line."""
    scheduler = diffusers.DDPMScheduler(**BETAS, prediction_type=word)
    generator = torch.Generator().manual_seed(step)
    data, noise = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64, generator=generator)
    steps = torch.full((3,), step)
    predicts = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}[word]
    diffusion = diffusion_of(scheduler.config, "file")
    network = Given()
    network.output = {
        "epsilon": noise,
        "v_prediction": scheduler.get_velocity(data, noise, steps),
        "sample": data,
    }[word]
    t = torch.full((3,), diffusion.times()[step], dtype=torch.float64)
    x = (1 - t[0]) * noise + t[0] * data
    velocity = DiffusionVelocity(network, diffusion, predicts)(x, t)
    torch.testing.assert_close(velocity, data - noise, atol=1e-4, rtol=1e-4)
    noisy, time = network.inputs
    torch.testing.assert_close(time, steps.double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(noisy, scheduler.add_noise(data, noise, steps), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("word", ["epsilon", "v_prediction"])
def test_perfect_denoisers_of_a_gaussian_give_its_velocity(word):
    """Data N(m, s²): E[data - noise | x_t] is linear in x_t, at steps and between them."""
    mean, deviation = 0.3, 0.6
    diffusion = diffusion_of({**BETAS, "prediction_type": word}, "file")

    class Perfect(nn.Module):
        def forward(self, y, step, cond={}):
            logs = torch.as_tensor(diffusion.ratios()).log()
            low = step.long().clamp(max=998)
            level = logs[low] + (step - low) * (logs[low + 1] - logs[low])
            ratio = level.exp()[:, None, None, None]
            alpha = (1 + ratio**2).rsqrt()
            sigma = alpha * ratio
            rest = (y - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)
            noise = sigma * rest
            data = mean + alpha * deviation**2 * rest
            return noise if word == "epsilon" else alpha * noise - sigma * data

    t = torch.linspace(0.1, 0.95, 7, dtype=torch.float64)
    x = torch.randn(7, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    velocity = DiffusionVelocity(Perfect(), diffusion, "v" if word == "v_prediction" else word)(x, t)
    s = t[:, None, None, None]
    slope = (s * deviation**2 - (1 - s)) / (s**2 * deviation**2 + (1 - s) ** 2)
    torch.testing.assert_close(velocity, mean + slope * (x - s * mean), atol=1e-6, rtol=1e-6)


def test_the_spec_builds_it_again_also_inside_a_diffusion(unet):
    wrapped = DiffusionVelocity(unet, diffusion_of(BETAS, "file"))
    for network in (unet, wrapped):
        again = build(spec(network), nn.Module)
        again.load_state_dict(network.state_dict())
        x, t = draw()
        assert torch.equal(again.eval()(x, t), network(x, t))


def test_activations_computed_again_give_the_same_gradients(unet):
    x, t = draw()
    gradients = []
    for on in (False, True):
        network = copy.deepcopy(unet).train()
        recompute(network, on)
        network(x, t, {"text": texts(3)}).square().mean().backward()
        assert network.model.is_gradient_checkpointing is on
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_cpu_trains_by_plain_attention_and_generates_by_the_fused_one(unet):
    """Values and gradients are those of the fused form, whose backward is slow there."""
    x, t = draw()
    fused = copy.deepcopy(unet)
    plain = copy.deepcopy(unet).train()
    gradients = []
    for network in (fused, plain):
        output = network(x, t, {"text": texts(3)})
        output.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    kinds = [{type(each).__name__ for each in n.model.attn_processors.values()} for n in (fused, plain)]
    assert kinds == [{"AttnProcessor2_0"}, {"AttnProcessor"}]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
    assert torch.equal(plain.eval()(x, t), unet(x, t))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"in_channels": 9}, "9 channels in and 4 out"),
        ({"class_embed_type": "timestep"}, "class_embed_type: 'timestep', an input beside text"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim: 8"),
        ({"sample_size": [8, 16]}, r"sample_size is \[8, 16\]; expected one whole number"),
        ({"norm_num_groups": 7}, "diffusers cannot build a UNet2DConditionModel"),
        ({"cross_attention_dim": [32, 16]}, r"cross_attention_dim is .*32, 16"),
    ],
)
def test_configurations_that_are_of_other_networks_are_refused(changes, expected):
    with pytest.raises(FlowlitError, match=expected):
        DiffusersUNet({**CONFIG, **changes})


def test_inputs_of_another_kind_are_refused(unet):
    x, t = draw()
    with pytest.raises(FlowlitError, match=r"\(3, 5, 32\); expected 77 × 32 for each image"):
        unet(x, t, {"text": torch.zeros(3, 5, 32)})
    with pytest.raises(FlowlitError, match="cond has label, but this network looks at nothing but 'text'"):
        unet(x, t, {"label": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(FlowlitError, match=r"built for images of shape \(4, 8, 8\), found \(4, 4, 4\)"):
        unet(x[..., :4, :4], t)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(FlowlitError, match=r"pip install 'flowlit\[text\]'"):
        DiffusersUNet(CONFIG)


def test_residual_blocks_that_keep_their_shape_are_left_out_for_good_and_not_for_a_while(unet):
    """A slim student of text may begin with its teacher's blocks; the input of one passes in its place."""
    whole = copy.deepcopy(unet)
    names = removable(whole)
    assert names == [
        "model.down_blocks.0.resnets.0",
        "model.mid_block.resnets.0",
        "model.mid_block.resnets.1",
    ]
    refused = pytest.raises(
        FlowlitError, match=r"cannot be left out for a while; for good by networks\.Pruned"
    )
    with refused, skipping(whole, names[:1]):
        pass
    blocks = [whole.get_submodule(name) for name in names]
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: inputs[0])
    x, t = draw()
    expected = whole(x, t, {"text": texts(3)})
    student = Pruned(copy.deepcopy(unet), names).eval()
    assert torch.equal(student(x, t, {"text": texts(3)}), expected) and removable(student) == []
    assert not torch.equal(expected, unet(x, t, {"text": texts(3)}))
    lost = sum(weight.numel() for block in blocks for weight in block.parameters())
    assert sum(map(torch.numel, unet.parameters())) - sum(map(torch.numel, student.parameters())) == lost
    again = build(spec(student), nn.Module)
    again.load_state_dict(student.state_dict())
    assert torch.equal(again.eval()(x, t, {"text": texts(3)}), expected)
