"""What makes a generator faster leaves its images what they were, up to a rounding that is stated."""

import pytest
import torch
from tools import randomise, tiny_unet

import flowlit._support.cuda_graphs
from flowlit._support.cuda_graphs import CUDAGraphRunner, called, is_compiled
from flowlit.couplings import SeededNoise
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.solvers import Euler, Heun


class Exact(Pixels):
    """Shows what uint8 would hide."""

    def decode(self, x1):
        return x1


def network():
    return randomise(
        tiny_unet(in_channels=3, width=16, attention_resolutions=(4, 8), num_classes=10), 1
    ).eval()


def generator(solver=None, codec=None):
    return Generator(network(), solver or Euler(1), codec or Exact(), (3, 8, 8), 10)


def by_batches(made, *sizes):
    """The same five images, generated in batches of these sizes."""
    return [made.sample(5, seed=3, batch_size=size) for size in sizes]


def test_without_options_it_is_a_generator_of_the_same_bits():
    plain = generator()
    same = plain.faster()
    assert torch.equal(same.sample(5), plain.sample(5)) and same.network is not plain.network


@pytest.mark.parametrize("solver", [Euler(1), Heun(4)], ids=["one step", "eight evaluations"])
def test_bf16_is_as_near_as_its_eight_bits_allow(solver):
    plain = generator(solver)
    before, fast = plain.sample(32), plain.faster("bf16")
    found = fast.sample(32)
    assert found.dtype == torch.float32, "the solver's state is not rounded"
    error = (found - before).square().mean().sqrt() / before.std()
    assert 0 < error < 0.01, "of the standard deviation of pixels"
    assert torch.equal(plain.sample(32), before) and plain.precision == "float32"
    assert all(p.dtype == torch.float32 for p in fast.network.parameters())


def test_pixels_of_bf16_differ_by_a_shade_or_two():
    plain = generator(codec=Pixels())
    difference = (plain.sample(64).int() - plain.faster("bf16").sample(64).int()).abs()
    assert 0 < difference.max() <= 4 and difference.float().mean() < 0.5


def test_channels_last_computes_the_same():
    plain = generator(Heun(2))
    fast = plain.faster(channels_last=True)
    kernels = [p for p in fast.network.parameters() if p.ndim == 4 and p.shape[2] > 1]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert torch.allclose(fast.sample(5), plain.sample(5), atol=1e-4)
    assert all(p.is_contiguous() for p in plain.network.parameters())


def test_bf16_channels_last_is_as_near_as_bf16():
    plain = generator()
    found, before = plain.faster("bf16", channels_last=True).sample(32), plain.sample(32)
    assert 0 < (found - before).square().mean().sqrt() / before.std() < 0.01


def test_without_blocks_one_image_costs_one_image():
    plain = generator()
    rows = []
    fast = plain.faster(blocks=False)
    for made in (plain, fast):
        made.network.register_forward_pre_hook(lambda _network, inputs: rows.append(len(inputs[0])))
        made.sample(1)
        made.sample(5, batch_size=3)
    assert rows == [16, 16, 16, 1, 3, 2]
    assert all(torch.allclose(one, plain.sample(5, seed=3), atol=1e-4) for one in by_batches(fast, 1, 3, 5))
    one, two = by_batches(plain.faster("bf16"), 1, 5)
    assert torch.equal(one, two), "with blocks, an image is the same bits in any batch, under bf16 too"


def test_a_compiled_generator_computes_the_same(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compiled(function, backend=backend, **how))
    plain = generator()
    fast = plain.faster(compile=True)
    assert not graphs and torch.allclose(fast.sample(5), plain.sample(5), atol=1e-5) and graphs
    assert plain.network._compiled_call_impl is None
    torch._dynamo.reset()


@pytest.mark.parametrize("inside", [False, True], ids=["the network", "a part of it"])
@pytest.mark.parametrize("again", [{}, {"precision": "bf16"}, {"channels_last": True}, {"compile": True}])
def test_a_faster_generator_made_faster_stays_compiled(inside, again):
    plain = generator()
    parts = list(plain.network.modules())
    fast = plain.faster(compile=not inside)
    if inside:
        list(fast.network.modules())[3].compile()
    compiled = [is_compiled(part) for part in fast.network.modules()]
    twice = fast.faster(**again)
    expected = [each or (i == 0 and "compile" in again) for i, each in enumerate(compiled)]
    assert any(compiled) and [is_compiled(part) for part in twice.network.modules()] == expected
    assert not any(is_compiled(part) for part in parts)


def test_a_faster_generator_made_faster_keeps_its_graphs_around_what_is_compiled(monkeypatch):
    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cpu")
    twice = generator().faster(compile=True, graphs=True).faster()
    assert isinstance(called(twice.network), CUDAGraphRunner) and is_compiled(twice.network)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("solver", [Euler(1), Heun(4)], ids=["one step", "eight evaluations"])
def test_weights_in_half_precision_generate(solver, dtype):
    """They met float32 noise, and ended in a RuntimeError."""
    plain = generator(solver)
    before = plain.sample(32)
    plain.network.to(dtype)
    found = plain.sample(32)
    assert found.dtype == torch.float32, "the solver's state is not rounded"
    assert 0 < (found - before).square().mean().sqrt() / before.std() < 0.02
    fast = plain.faster("bf16").sample(32)
    assert (fast - before).square().mean().sqrt() / before.std() < 0.02
    one, two = by_batches(plain, 1, 5)
    assert torch.equal(one, two)


def test_graphs_are_replayed_from_the_second_batch_on(monkeypatch):
    replays = []

    def record(work, device):
        output = work()
        return lambda: replays.append(output.copy_(work())), output

    monkeypatch.setattr(flowlit._support.cuda_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(flowlit._support.cuda_graphs, "record", record)
    plain = generator(Heun(2))
    fast = plain.faster(graphs=True)
    assert torch.equal(fast.sample(48, batch_size=16), plain.sample(48, batch_size=16))
    assert len(replays) == 3 * 4 - 1
    assert isinstance(called(fast.network), CUDAGraphRunner) and not isinstance(
        called(plain.network), CUDAGraphRunner
    )


def test_what_cannot_be_is_refused():
    with pytest.raises(FlowlitError, match="CUDA graphs need the network on an NVIDIA GPU, found cpu"):
        generator().faster(graphs=True)
    with pytest.raises(FlowlitError, match="precision is 'fp8'; expected one of float32, bf16"):
        generator().faster("fp8")


def test_noise_of_ones_own_is_generated_from_as_well():
    plain, noise = generator(), SeededNoise((3, 8, 8), 5, 3, 10).batch(range(5))
    fast = plain.faster("bf16", blocks=False)
    assert torch.allclose(fast(noise.x0, noise.cond), fast.sample(5, seed=3))
