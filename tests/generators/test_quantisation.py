"""Rounding to integers: harm that is known, bits by an integer programme, coefficients, ONNX's integers."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.generators.quantisation.allocation import allocate, least
from flowlit.generators.quantisation.choice import Budget, budget_of, prices, within_size, within_time
from flowlit.generators.quantisation.coefficients import in_features, moments, paired
from flowlit.generators.quantisation.integers import (
    NOTHING,
    Range,
    rounded,
    rounded_weight,
    weight_integers,
    weight_scales,
)
from flowlit.generators.quantisation.layers import Ranges, layers_of, measuring, rounding
from flowlit.generators.quantisation.sensitivity import Harm, Result, calm, sensitivity, weighed
from flowlit.generators.quantisation.subject import Subject
from flowlit.solvers import Euler


def decibels(changed, original):
    return -10 * math.log10(float((changed - original).square().sum() / original.square().sum()))


@pytest.mark.parametrize(("bits", "expected"), [(8, 42.5), (4, 17.3)])
def test_gaussian_weights(bits, expected):
    """dB of weights with 512 inputs, whose largest is about three deviations."""
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    again = rounded_weight(weight, bits)
    assert decibels(again, weight) == pytest.approx(expected, abs=1.5)
    torch.testing.assert_close(rounded_weight(again, bits), again)


@pytest.mark.parametrize("still", [0.0, 1e-9])
def test_a_dead_channel_harms_no_other(still):
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    expected = rounded_weight(weight[1:], 4)
    weight[0] *= still
    assert torch.equal(rounded_weight(weight, 4)[1:], expected)
    torch.testing.assert_close(rounded_weight(weight, 8)[0], weight[0], atol=0.02 * still, rtol=0)


def test_zero_is_exact_whatever_the_range():
    for low, high in ((-1.0, 2.0), (0.5, 3.0), (-3.0, -1.0), (0.0, 0.0)):
        values = torch.linspace(min(low, 0), max(high, 0), 100)
        again = rounded(torch.cat([values, torch.zeros(1)]), Range(low, high))
        assert again[-1] == 0
        step = (max(high, 0) - min(low, 0)) / 255
        assert (again[:-1] - values).abs().max() <= step / 2 + 1e-6
    assert rounded(torch.tensor([9.0]), Range(0.0, 1.0)).item() == pytest.approx(1)


class Two(nn.Module):
    """Two layers without biases, of which the first cannot be rounded to 4 bits without a known error."""

    shape = (2, 1, 1)

    def __init__(self, first=((7.0, 2.4), (7.0, -1.0))):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1, bias=False)
        self.second = nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor(first)[:, :, None, None])
            self.second.weight.copy_(torch.eye(2)[:, :, None, None])

    def forward(self, x, t, cond={}):
        return self.second(self.first(x))


def test_harm_where_it_is_known():
    subject = Subject(Generator(Two(), Euler(1), Pixels()), 100, 1, None)
    table = sensitivity(subject.layers, subject.run, {}, (4, 8))
    x0 = torch.cat([each.x0 for each in subject.noise])
    x1 = subject.generator.solve(x0).x1
    expected = float((0.4 * x0[:, 1]).square().sum() / x1.square().sum())
    assert table["first"][4].pixels == pytest.approx(expected, rel=1e-4)
    assert table["second"][4].pixels == table["second"][8].pixels == 0
    assert table["first"][8].pixels < expected / 50 and table["first"][4].features is None
    assert torch.equal(subject.layers["first"].weight, Two().first.weight), "weights came back"


def test_harm_in_features_and_at_pixels_is_apart():
    layers = layers_of(Two())
    results = {(): (0.0, 0.0), ("first",): (1.0, 0.0), ("second",): (0.0, 3.0)}

    def run():
        changed = tuple(n for n, layer in layers.items() if not torch.equal(layer.weight, before[n]))
        pixels, features = results[changed]
        signal = torch.tensor([[1.0], [-1.0]])
        return Result(signal * (1 + pixels), signal * (1 + features))

    with torch.no_grad():
        layers["second"].weight.mul_(torch.tensor([1.0, 1.3]).reshape(1, 2, 1, 1)).add_(0.04)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    table = sensitivity(layers, run, {}, (4, 32))
    assert table == {
        "first": {4: Harm(1, 0), 32: Harm(0, 0)},
        "second": {4: Harm(0, 9), 32: Harm(0, 0)},
    }
    assert weighed(table, "pixels")["first"][4] == 1 and weighed(table, "features")["second"][4] == 9
    assert weighed(table, "both") == {"first": {4: 1, 32: 0}, "second": {4: 1, 32: 0}}


def test_bits_are_those_of_trying_all():
    generator = np.random.default_rng(0)
    names = "abcdef"
    widths = (4, 8, 32)
    for budget in (250, 420, 700, 1500):
        counts = generator.integers(10, 60, len(names))
        harm = {name: dict(zip(widths, sorted(generator.random(3))[::-1], strict=True)) for name in names}
        costs = {
            name: {bits: count * bits / 8 for bits in widths}
            for name, count in zip(names, counts, strict=True)
        }
        tried = (
            (sum(harm[n][b] for n, b in zip(names, some, strict=True)), some)
            for some in itertools.product(widths, repeat=6)
            if sum(costs[n][b] for n, b in zip(names, some, strict=True)) <= budget
        )
        best, _ = min(tried)
        bits = allocate(harm, costs, budget)
        assert sum(harm[name][bits[name]] for name in names) == pytest.approx(best, rel=1e-9)
        assert sum(costs[name][bits[name]] for name in names) <= budget
    with pytest.raises(FlowlitError, match="expected at least"):
        allocate(harm, costs, least(costs) - 1)


def test_a_budget_is_kept_and_the_least_is_named():
    layers = {"a": nn.Linear(64, 8), "b": nn.Linear(8, 64), "c": nn.Linear(100, 30)}
    harm = {name: {4: 3.0, 8: 1.0 + i, 32: 0.0} for i, name in enumerate(layers)}
    costs = prices(layers)

    def length(bits):  # more than the prices say
        return int(1000 + 1.02 * sum(costs[name][bits[name]] for name in layers))

    floor = length(dict.fromkeys(layers, 4))
    for budget in (floor, floor + 300, floor + 2000, 10**6):
        bits = within_size(budget, harm, layers, length)
        assert length(bits) <= budget
    assert set(bits.values()) == {32}
    with pytest.raises(
        FlowlitError, match=rf"4 bits in all layers the file has {floor:,} bytes; .*--budget \d+kB"
    ):
        within_size(floor - 1, harm, layers, length)


def test_a_time_is_kept_though_layers_alone_promise_more():
    names = "abcd"
    harm = {name: {4: 9.0, 8: 1.0 + i, 32: 0.0} for i, name in enumerate(names)}
    costs = {name: {4: 0.5, 8: 0.2, 32: 0.3} for name in names}

    def time(bits):  # each change between integers and floats takes some
        widths = [bits[name] for name in names]
        return 1 + sum(costs[n][bits[n]] for n in names) + 0.04 * (len(set(widths)) - 1)

    assert set(within_time(2.2, harm, costs, time).values()) == {32}
    bits = within_time(2.05, harm, costs, time)
    assert time(bits) <= 2.05 and sorted(bits.values()) == [8, 8, 32, 32] and bits["d"] == bits["c"] == 32
    assert set(within_time(1.8, harm, costs, time).values()) == {8}, "the fastest, which is not of 4 bits"
    with pytest.raises(FlowlitError, match=r"one image takes 1\.8 ms on this machine; expected --budget 2ms"):
        within_time(1.79, harm, costs, time)


@pytest.mark.parametrize("floor", [0.0123, 1.8, 124.0, 8765.0, 2.5e6])
def test_the_time_that_is_advised_is_enough_and_is_read(floor):
    with pytest.raises(FlowlitError) as caught:
        within_time(floor / 2, {"a": {4: 1.0}}, {"a": {4: floor}}, lambda bits: floor)
    advised = budget_of(re.search(r"--budget (\S+) or more", str(caught.value))[1])
    assert floor <= advised.milliseconds < 1.2 * floor


def test_budgets_are_sizes_or_times():
    assert budget_of("1.5 MiB") == Budget(1_572_864, None) and budget_of(".5ms") == Budget(None, 0.5)


@pytest.mark.parametrize("text", ["", "four", "-3MB", "4 XB", "0", "1e9MB", "nan", "0ms", "-1ms", "ms", "1s"])
def test_budgets_that_are_none(text):
    with pytest.raises(FlowlitError, match="expected a size, as 4MB or 150kB, or a time, as 2ms"):
        budget_of(text)


def channels(x):
    return torch.cat([x.mean(1).flatten(1), x.square().mean(1).flatten(1)], 1)


@pytest.mark.parametrize(
    "fit", [paired, moments, in_features(channels)], ids=["paired", "moments", "features"]
)
def test_coefficients_make_up_for_a_known_scale(fit):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 4, 4, generator=source)
    move = 0.3 * x.roll(1, 3) + torch.randn(400, 1, 4, 4, generator=source) + 0.2
    target = x + move
    rough = 0.02 if fit not in (paired, moments) else 1e-5
    assert fit(x, move, target) == pytest.approx((1, 1), abs=rough)
    assert fit(x, move / 1.25, target) == pytest.approx((1, 1.25), abs=rough)
    assert fit(x / 0.9, move / 1.25, target) == pytest.approx((0.9, 1.25), abs=rough)


def test_paired_coefficients_never_raise_the_error_they_are_fitted_on():
    source = torch.Generator().manual_seed(0)
    for _ in range(5):
        x, move, noise = torch.randn(3, 20, 1, 4, 4, generator=source)
        a, b = paired(x, move + noise, x + move)
        assert (a * x + b * (move + noise) - x - move).norm() <= noise.norm() + 1e-6
    assert paired(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1)) == (1, 1)


def test_coefficients_of_steps_are_fitted_in_order():
    class Linear(nn.Module):
        shape = (1, 2, 2)

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1, bias=False)
            self.layer.weight.data.fill_(0.5)

        def forward(self, x, t, cond={}):
            return self.layer(x)

    subject = Subject(Generator(Linear(), Euler(3), Pixels()), 16, 1, None)

    def fit(x, move, target):
        return 1.0, float((target - x).norm() / move.norm())

    scales = subject.fitted(fit, {"layer": 4}, {})
    assert np.allclose(scales, 1, atol=1e-6), "one weight is exact"
    again = subject.scaled([(1.0, 2.0), (1.0, 1.0), (1.0, 1.0)])
    x0 = torch.ones(1, 1, 2, 2)
    expected = (1 + 2 * 0.5 / 3) * (1 + 0.5 / 3) ** 2
    assert again.solve(x0).x1.mean().item() == pytest.approx(expected, rel=1e-6)


class Parts(nn.Module):
    """A convolution, and a linear layer of its channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(self.conv(x).permute(0, 2, 3, 1))


def graph_of(network, onnx):
    """The same as an ONNX file, written by hand."""
    make = onnx.helper.make_node
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    state["linear.weight"] = state["linear.weight"].T.copy()
    nodes = [
        make("Conv", ["x", "conv.weight", "conv.bias"], ["h"], pads=[1] * 4, group=1, strides=[1, 1]),
        make("Transpose", ["h"], ["rows"], perm=[0, 2, 3, 1]),
        make("MatMul", ["rows", "linear.weight"], ["sum"]),
        make("Add", ["sum", "linear.bias"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    ends = [value("x", 1, ["batch", 1, 8, 8])], [value("y", 1, ["batch", 8, 8, 3])]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in state.items()]
    graph = onnx.helper.make_graph(nodes, "parts", *ends, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (4, 8), (8, 32), (32, 4)])
@pytest.mark.parametrize("activations", [8, 32])
def test_rounding_is_that_of_onnxruntime(bits, activations):
    onnx = pytest.importorskip("onnx", reason="flowlit[export] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="flowlit[export] is not installed")
    from flowlit.generators.quantisation.graph import Graph

    torch.manual_seed(0)
    network = Parts().requires_grad_(False).half().float()  # whose biases the file has as they are
    layers = layers_of(network)
    x = torch.randn(20, 1, 8, 8)
    with measuring(layers) as ranges:
        network(x)
    chosen = dict(zip(layers, bits, strict=True))
    used = ranges if activations == 8 else {}
    with rounding(layers, chosen, used):
        expected = network(x)
    graph = Graph(graph_of(network, onnx), layers)
    assert graph.found == ["conv", "linear"]
    content = graph.integers(chosen, used, {"made": "by a test"})
    changed = float((expected - network(x)).abs().mean())
    levels = ["ORT_DISABLE_ALL"]
    if activations == 8:  # else the runtime's own kernels may round activations
        levels.append("ORT_ENABLE_ALL")
    for level in levels:
        options = runtime.SessionOptions()
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": x.numpy()})
        assert float((torch.from_numpy(found) - expected).abs().mean()) < changed / 10, level
    model = onnx.load_from_string(content)
    kinds = {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}
    arrays = [t for t in model.graph.initializer if t.data_type in kinds.values()]
    for (name, layer), width in zip(layers.items(), bits, strict=True):
        if width < 32:
            integers = weight_integers(layer.weight, width).numpy()
            alike = [
                onnx.numpy_helper.to_array(t).astype(np.int8) for t in arrays if t.data_type == kinds[width]
            ]
            shapes = (integers, integers.T) if name == "linear" else (integers,)
            assert any(np.array_equal(a, b) for a in alike for b in shapes)
            assert weight_scales(layer.weight, width).shape == (len(layer.weight),)
    assert json.loads(model.metadata_props[0].value)["made"] == "by a test"


def test_a_network_without_layers_is_refused():
    with pytest.raises(FlowlitError, match="Identity has no convolution or linear layer"):
        layers_of(nn.Identity())


def test_most_harmful_activations_stay_as_they_are():
    """A range that a stray value makes 1,000 times too wide harms; its layer's other end does not."""
    subject = Subject(Generator(Two(), Euler(1), Pixels()), 100, 1, None)
    ranges = subject.ranges()
    assert calm(subject.layers, subject.run, ranges) == ranges
    wide = {**ranges, "second": Ranges(Range(-5000.0, 5000.0), ranges["second"].outputs)}
    left = calm(subject.layers, subject.run, wide)
    assert left["first"] == ranges["first"]
    assert left["second"] == Ranges(NOTHING, ranges["second"].outputs)
    with rounding(subject.layers, {"second": 8}, {"second": Ranges()}):
        assert torch.equal(subject.run().x1, subject.run().x1)


def test_constants_that_float16_holds_are_halved_and_others_stay():
    onnx = pytest.importorskip("onnx", reason="flowlit[export] is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="flowlit[export] is not installed")
    from flowlit.generators.quantisation.halves import halve

    values = {"a": [1.0, 2.5], "b": [-0.1, 3e-9], "c": [0.3, 0.0], "d": [[7.0, 0.1]], "e": 5e-9}
    arrays = {name: np.float32(value) for name, value in values.items()}
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [make("Sum", ["x", *arrays], ["y"])]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ends = [value("x", 1, [1, 2])], [value("y", 1, [1, 2])]
    graph = onnx.helper.make_graph(nodes, "sum", *ends, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    halve(onnx, model.graph)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds.pop("b") == kinds.pop("e") == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16} and len(kinds) == 2
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    np.testing.assert_allclose(found, 1 + sum(arrays.values()), atol=2e-4)
