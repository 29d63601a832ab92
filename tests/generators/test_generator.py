import subprocess
import sys

import pytest
import torch
from tools import LinearField, randomise, tiny_unet, write_checkpoint

import flowlit
from flowlit.couplings import seeded_normal
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator, load
from flowlit.networks import EmpiricalFlow
from flowlit.networks.checkpoints.spec import spec
from flowlit.solvers import RK45, SDE, Euler, Heun

SHAPE = (1, 4, 4)


def generator(solver, network=None):
    return Generator(network or LinearField(), solver, Pixels(), SHAPE)


def test_images_are_the_decoded_end_of_the_flow():
    images = generator(Euler(1)).sample(3, seed=5)
    assert images.dtype == torch.uint8 and images.shape == (3, *SHAPE)
    x0 = torch.stack([seeded_normal(5, i, SHAPE) for i in range(3)])
    assert torch.equal(images, Pixels().decode(x0 + 0.3 * x0 + 0.1))


@pytest.mark.parametrize("solver", [Euler(1), Heun(3), RK45(), SDE(4)], ids=repr)
def test_image_i_depends_on_seed_and_i_only(solver):
    generate = generator(solver).sample
    images = generate(20, seed=1)
    assert torch.equal(generate(7, seed=1), images[:7])
    for batch_size in (1, 6, 20):
        assert torch.equal(generate(20, seed=1, batch_size=batch_size), images)
    torch.manual_seed(99)
    assert torch.equal(generate(20, seed=1), images)
    assert not torch.equal(generate(20, seed=2), images)


def test_batch_size_does_not_matter_for_a_network_either():
    """Up to the last bit of a convolution, which may tip a rounding."""
    network = randomise(tiny_unet()).eval()
    generate = Generator(network, Euler(1), Pixels(), network.shape).sample
    difference = generate(16, batch_size=3).int() - generate(16, batch_size=16).int()
    assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01


def test_labels_are_balanced_by_index():
    class ByLabel(LinearField):
        def forward(self, x, t, cond={}):
            return Pixels().encode(20 * cond["label"])[:, None, None, None] - x

    images = Generator(ByLabel(), Euler(1), Pixels(), SHAPE, num_classes=10).sample(23, batch_size=4)
    assert images[:, 0, 0, 0].tolist() == [20 * (i % 10) for i in range(23)]


def test_a_network_without_parameters_generates_too():
    image = torch.full((1, *SHAPE), 0.2)
    assert torch.equal(
        generator(Euler(1), EmpiricalFlow(image)).sample(2), Pixels().decode(image).expand(2, -1, -1, -1)
    )


def test_without_a_shape_it_asks_for_noise():
    nameless = Generator(LinearField(), Euler(1), Pixels())
    with pytest.raises(FlowlitError, match="the network has no attribute `shape`"):
        nameless.sample(2)
    assert nameless(torch.zeros(2, *SHAPE)).shape == (2, *SHAPE)


def test_load_takes_network_solver_and_codec_from_the_checkpoint(tmp_path):
    raw, ema = randomise(tiny_unet(num_classes=3), 1), randomise(tiny_unet(num_classes=3), 2)
    path = write_checkpoint(tmp_path / "c.ckpt", raw, ema, solver=spec(Heun(3)), codec=spec(Pixels()))
    found = flowlit.load(path)
    assert found.solver == Heun(3) and found.shape == (1, 8, 8) and found.num_classes == 3
    assert not found.network.training and not any(p.requires_grad for p in found.network.parameters())
    expected = Generator(ema.eval(), Heun(3), Pixels(), (1, 8, 8), 3).sample(4)
    assert torch.equal(found.sample(4), expected)
    assert not torch.equal(load(path, weights="raw").sample(4), expected)
    assert load(path, solver=Euler(2)).solver == Euler(2)


def test_load_without_a_solver_asks_for_one(tmp_path):
    with pytest.raises(FlowlitError, match="names no solver"):
        load(write_checkpoint(tmp_path / "c.ckpt", tiny_unet()), weights="raw")


def test_submodules_are_there_after_importing_flowlit():
    """As errors and docs name them: flowlit.solvers.Euler(1)."""
    code = (
        "import flowlit, sys; assert 'torch' not in sys.modules; flowlit.solvers.Euler(1); "
        "flowlit.networks.pretrained"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
