import copy
import types
import urllib.error

import pytest
import torch
from reference.lpips import CONVS_PER_LEVEL, lpips
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from flowlit.errors import FlowlitError
from flowlit.metrics.cost import count_flops
from flowlit.objectives.distances import (
    LPIPS,
    AbsoluteError,
    FeatureDistance,
    PseudoHuber,
    SquaredError,
    VectorPseudoHuber,
    WeightedSum,
)

a, b = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
ELEMENTARY = [SquaredError(), AbsoluteError(), PseudoHuber(), VectorPseudoHuber()]


@pytest.mark.parametrize("distance", ELEMENTARY, ids=lambda d: type(d).__name__)
def test_distances_are_per_sample_symmetric_and_zero_for_equals(distance):
    assert distance(a, b).shape == (3,)
    assert (distance(a, b) > 0).all()
    assert torch.allclose(distance(a, b), distance(b, a))
    assert distance(a, a).abs().max() < 1e-7
    assert torch.allclose(distance(a, b)[1:2], distance(a[1:2], b[1:2])), "neighbours do not matter"


def test_squared_and_absolute_error_average_over_entries():
    difference = (a - b)[0].flatten().tolist()
    assert float(SquaredError()(a, b)[0]) == pytest.approx(sum(d * d for d in difference) / 32, rel=1e-5)
    assert float(AbsoluteError()(a, b)[0]) == pytest.approx(sum(abs(d) for d in difference) / 32, rel=1e-5)


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away():
    zero, c = torch.zeros(1, 1, 1, 4, dtype=torch.float64), 0.03
    small, large = zero + 1e-4, zero + 1e4
    assert float(PseudoHuber(c)(small, zero)) == pytest.approx(1e-8 / (2 * c), rel=1e-4)
    assert float(PseudoHuber(c)(large, zero)) == pytest.approx(1e4 - c, rel=1e-9)


def test_vector_pseudo_huber_formula():
    d = 32
    norm, c = float((a - b)[2].norm()), 0.00054 * d
    assert float(VectorPseudoHuber()(a, b)[2]) == pytest.approx(((norm**2 + c**2) ** 0.5 - c) / d, rel=1e-5)


def test_the_two_pseudo_hubers_differ():
    assert not torch.allclose(PseudoHuber(0.03)(a, b), VectorPseudoHuber(0.03)(a, b), rtol=0.01)


def test_gradients_are_finite_at_equal_images():
    for distance in ELEMENTARY:
        x = a.clone().requires_grad_()
        distance(x, a).sum().backward()
        assert torch.isfinite(x.grad).all(), type(distance).__name__


def test_weighted_sum():
    distance = WeightedSum([SquaredError(), AbsoluteError()], [2.0, 0.5])
    assert torch.allclose(distance(a, b), 2 * SquaredError()(a, b) + 0.5 * AbsoluteError()(a, b))
    assert torch.allclose(
        WeightedSum([SquaredError(), AbsoluteError()])(a, b), SquaredError()(a, b) + AbsoluteError()(a, b)
    )
    with pytest.raises(FlowlitError, match="2 distances but 1 weights"):
        WeightedSum([SquaredError(), AbsoluteError()], [1.0])


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    heads = [torch.rand(width) for width in (64, 128, 256, 512, 512)]
    return layers, heads


@pytest.fixture
def weights(vgg, monkeypatch):
    """Self-made weights where torch-fidelity would download the published ones."""
    from torch_fidelity import sample_similarity_lpips as library

    layers, heads = vgg
    state = {f"lin{i}.model.1.weight": head[None, :, None, None] for i, head in enumerate(heads)}
    monkeypatch.setattr(library, "load_state_dict_from_url", lambda *args, **kwargs: state)
    monkeypatch.setattr(
        library, "torchvision_load_pretrained_vgg16", lambda: types.SimpleNamespace(features=layers)
    )
    convs = [(layer.weight.detach(), layer.bias.detach()) for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(convs) == sum(CONVS_PER_LEVEL)
    return convs, heads


def images(channels=3, size=32, count=2):
    return torch.rand(2, count, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_lpips_agrees_with_an_independent_implementation(weights):
    x, y = images()
    assert torch.allclose(LPIPS(resize=None)(x, y), lpips(x, y, *weights), rtol=1e-4)
    assert LPIPS(resize=None)(x, x).abs().max() == 0


def test_lpips_resizes_both_images_with_aligned_corners(weights):
    x, y = images(size=16)
    big = [nn.functional.interpolate(z, (32, 32), mode="bilinear", align_corners=True) for z in (x, y)]
    assert torch.allclose(LPIPS(resize=32)(x, y), lpips(*big, *weights), rtol=1e-4)


def test_lpips_takes_grey_images(weights):
    x, y = images(channels=1)
    assert torch.allclose(
        LPIPS(resize=None)(x, y), lpips(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1), *weights), rtol=1e-4
    )


def test_lpips_lets_gradients_through_to_its_input_but_not_into_its_weights(weights):
    x, y = images(count=1)
    distance = LPIPS(resize=None)
    x.requires_grad_()
    distance(x, y).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    assert not list(distance.parameters()) and not distance.state_dict()


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no network"), TimeoutError("no network"), ConnectionResetError("no network")],
)
def test_lpips_without_a_network_says_which_files_are_missing(error, monkeypatch):
    from torch_fidelity import sample_similarity_lpips as library

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(library, "load_state_dict_from_url", fail)
    with pytest.raises(FlowlitError, match=r"no network.*vgg16-397923af.pth.*weights-vgg16-lpips.pth"):
        LPIPS()(a[:, :1], b[:, :1])


@pytest.mark.parametrize("content", [b"", b"no weights", "another's"], ids=["empty", "text", "another's"])
def test_lpips_says_which_file_is_damaged(content, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    path = tmp_path / "checkpoints/weights-vgg16-lpips.pth"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(FlowlitError, match=rf"neither be read from {tmp_path}.*weights-vgg16-lpips.pth") as e:
        LPIPS()(a[:, :1], b[:, :1])
    assert "\n" not in str(e.value)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1))


def test_feature_distance_sums_the_named_layers():
    network = small_network()
    expected = sum(((f(a) - f(b)) ** 2).flatten(1).mean(1) for f in (network[:1], network))
    assert torch.allclose(FeatureDistance(network, ["0", "2"], normalize=False)(a, b), expected, rtol=1e-5)


def test_normalised_feature_distance_ignores_the_scale_of_the_features():
    network = small_network()
    before = FeatureDistance(network, ["2"])(a, b)
    with torch.no_grad():
        network[2].weight.mul_(7)
        network[2].bias.mul_(7)
    assert torch.allclose(FeatureDistance(network, ["2"])(a, b), before, rtol=1e-5)


def test_feature_distance_is_frozen_and_differentiable_in_its_input():
    distance, x = FeatureDistance(small_network(), ["2"]), a.clone().requires_grad_()
    distance(x, b).sum().backward()
    assert x.grad.abs().max() > 0 and not list(distance.parameters())


def test_feature_distance_names_the_layers_there_are():
    with pytest.raises(FlowlitError, match=r"layers \['9'\] not in Sequential: \['0', '1', '2'\]"):
        FeatureDistance(small_network(), ["0", "9"])


def test_weights_of_layers_multiply_their_parts():
    network = small_network()
    one, other = (FeatureDistance(network, [name])(a, b) for name in ("0", "2"))
    found = FeatureDistance(network, ["0", "2"], weights=[2, 0.5])(a, b)
    assert torch.allclose(found, 2 * one + 0.5 * other, rtol=1e-6)
    with pytest.raises(FlowlitError, match="2 layers but 1 weights"):
        FeatureDistance(network, ["0", "2"], weights=[1])


def test_bug_a_copy_of_a_feature_distance_compared_nothing():
    """Hooks of the copied network reported to the distance that it was copied from."""
    distance = FeatureDistance(small_network(), ["0", "2"])
    assert torch.equal(copy.deepcopy(distance)(a, b), distance(a, b))
    work = count_flops(lambda copied, mix: copied(mix(a), b).sum(), distance, nn.Conv2d(2, 2, 1))
    assert work > count_flops(lambda mix: mix(a).sum(), nn.Conv2d(2, 2, 1)) > 0
