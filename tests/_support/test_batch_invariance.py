"""An image is the same bits in any batch: matrix kernels see whole blocks of rows only."""

import pytest
import torch
from tools import randomise, tiny_unet

from flowlit._support.batch_invariance import BLOCK, BatchInvariant, in_blocks, parts, whole_blocks
from flowlit.couplings import SeededNoise
from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.modules import FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import RK45, Euler, Heun

SIZES = (1, 7, 16, 64)


@pytest.fixture(scope="module")
def network():
    """Three channels, two levels, attention and classes: convolutions, matrix products and embeddings of all
    shapes.
    """
    return randomise(
        tiny_unet(in_channels=3, width=16, attention_resolutions=(4, 8), num_classes=10), 1
    ).eval()


def noise(num):
    return SeededNoise((3, 8, 8), num, seed=2, num_classes=10).batch(range(num))


def in_batches(call, rows, size):
    """Call with ``size`` consecutive rows at a time; with single ones, which are slow, for the first six
    only.
    """
    starts = range(0, 6 if size == 1 else len(rows.x0), size)
    parts = [call(rows.x0[i : i + size], {"label": rows.cond["label"][i : i + size]}) for i in starts]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def same_rows(found, whole):
    return torch.equal(found, whole[: len(found)])


@pytest.mark.parametrize("gradients", [True, False], ids=["parameters take gradients", "frozen"])
def test_a_network_gives_the_same_bits_in_any_batch(network, gradients):
    """Kernels are chosen by what autograd may ask for, too."""
    network.requires_grad_(gradients)
    rows, velocity = noise(64), BatchInvariant(network)
    with torch.inference_mode():
        whole, *others = (
            in_batches(lambda x, cond: (velocity(x, torch.full((len(x),), 0.3), cond),), rows, size)[0]
            for size in reversed(SIZES)
        )
    assert whole.std() > 0.01 and all(same_rows(other, whole) for other in others)


@pytest.mark.parametrize("solver", [RK45(1e-2, 1e-2), Heun(3)], ids=["RK45", "Heun"])
def test_a_solver_ends_on_the_same_bits_in_any_batch(network, solver):
    """Also where the samples of one batch arrive one after the other, so that RK45 works on fewer and fewer
    rows.
    """
    rows = noise(64)
    rows.x0.mul_(torch.linspace(0.1, 4, 64)[:, None, None, None])  # some are harder than others
    with torch.inference_mode():
        found = [
            in_batches(lambda x, cond: solver(BatchInvariant(network), x, cond), rows, size)
            for size in reversed(SIZES)
        ]
    if isinstance(solver, RK45):
        assert len(set(found[0][1].tolist())) > 1, "the samples need different numbers of steps"
    for x1, nfe in found[1:]:
        assert same_rows(x1, found[0][0]) and same_rows(nfe, found[0][1])


def test_a_module_solves_each_sample_alike_in_any_batch(network):
    module = FlowModule(network, RectifiedFlow(), solvers={"rk45": RK45(1e-2, 1e-2)}).eval()
    dataset = SeededNoise((3, 8, 8), 32, seed=2, num_classes=10)
    with torch.inference_mode():
        whole = module.solve("rk45", dataset.batch(range(32)))
        odd = module.solve("rk45", dataset.batch([31, 4, 9, 0, 17]))
    assert torch.equal(odd.x1, whole.x1[[31, 4, 9, 0, 17]]) and torch.equal(
        odd.nfe, whole.nfe[[31, 4, 9, 0, 17]]
    )


def test_the_images_of_a_generator_do_not_depend_on_the_batch_size(network):
    class Exact(Pixels):
        def decode(self, x1):
            return x1  # uint8 would hide the last bits

    generator = Generator(network, Euler(2), Exact(), (3, 8, 8), 10)
    whole = generator.sample(40, seed=5, batch_size=40)
    assert all(torch.equal(whole, generator.sample(40, seed=5, batch_size=size)) for size in (1, 7, 16))


@pytest.mark.parametrize(("rows", "evaluated"), [(1, 16), (7, 16), (15, 16), (16, 16), (17, 32), (64, 64)])
def test_networks_see_whole_blocks_with_the_conditions_of_the_same_rows(rows, evaluated):
    def field(x, t, cond):
        assert len(x) == len(t) == len(cond["label"]) == evaluated
        assert torch.equal(x[:, 0], t) and torch.equal(x[:, 0].long(), cond["label"])
        assert torch.equal(x[:rows, 0], torch.arange(rows) + 1.0), "in their order"
        assert (x[rows:, 0] == rows).all(), (
            "filled with the last one, not with numbers that a network never saw"
        )
        return 10 * x

    x = torch.arange(rows)[:, None] + 1.0
    found = BatchInvariant(field)(x, x[:, 0], {"label": x[:, 0].long()})
    assert torch.equal(found, 10 * x)


@pytest.mark.parametrize("solver", [RK45(1e-2, 1e-2), Heun(3)], ids=["RK45", "Heun"])
def test_a_large_batch_in_parts_is_the_same_bits(network, solver, monkeypatch):
    rows = noise(64)
    with torch.inference_mode():
        whole = solver(BatchInvariant(network), rows.x0, rows.cond)
        monkeypatch.setattr("flowlit._support.batch_invariance.PIXELS", 8 * 8 * 20)
        found = solver(BatchInvariant(Small(network)), rows.x0, rows.cond)
    assert torch.equal(found.x1, whole.x1) and torch.equal(found.nfe, whole.nfe)


class Small:
    """A velocity that refuses more than a block."""

    def __init__(self, velocity):
        self.velocity = velocity

    def __call__(self, x, t, cond):
        assert len(x) == len(t) == len(cond["label"]) == BLOCK
        return self.velocity(x, t, cond)


@pytest.mark.parametrize(
    ("shape", "device", "rows"),
    [
        ((64, 3, 32, 32), "cpu", [16] * 4),
        ((48, 3, 299, 299), "cpu", [16] * 3),
        ((64, 1, 8, 8), "cpu", [64]),
        ((304, 1, 8, 8), "cpu", [256, 48]),
        ((64, 3, 299, 299), "meta", [64]),
        ((0, 3, 8, 8), "cpu", [0]),
        ((0, 3, 8, 8), "meta", [0]),
        ((16, 5), "cpu", [16]),
    ],
)
def test_only_a_cpu_takes_images_in_parts(shape, device, rows):
    images = torch.zeros(shape, device=device)
    assert [len(images[some]) for some in parts(images)] == rows


def test_functions_see_all_images_once_in_parts():
    seen = []
    images = torch.arange(50.0)[:, None, None, None].expand(50, 1, 32, 32)
    [means] = in_blocks(lambda some: seen.append(len(some)) or (some.mean((1, 2, 3)),), images)
    assert seen == [16] * 4 and means.tolist() == list(range(50))


def test_no_images_are_no_features():
    assert in_blocks(lambda images: (images.flatten(1), None), torch.zeros(0, 1, 8, 8))[0].shape == (0, 64)


def test_gradients_reach_only_the_rows_that_were_asked_for():
    x = torch.randn(5, 2, requires_grad=True)
    BatchInvariant(lambda x, t, cond: x**2)(x, torch.zeros(5)).sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach())


def test_functions_of_images_may_leave_things_out():
    def extract(images):
        assert len(images) == BLOCK
        return images.float().mean(1), None

    images = torch.arange(10, dtype=torch.uint8).reshape(5, 2)
    features, logits = in_blocks(extract, images)
    assert features.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5] and logits is None


def test_nothing_is_padded_to_nothing():
    assert len(whole_blocks(0)) == 0
