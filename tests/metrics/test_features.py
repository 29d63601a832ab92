"""Feature extractors: what they compute, which weights they take, and which they refuse."""

import pytest
import torch
from tools import classifier, classifier_checkpoint, tiny_unet, write_checkpoint
from torch import nn

from flowlit.data import Digits, Pixels
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures, Inception, NetworkFeatures
from flowlit.metrics.features import features_identity

ONE = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


# ----------------------------------------------------------------------------------------------------------
# classifiers


def test_classifier_features_are_those_of_its_network(tmp_path):
    images = Digits(limit=5).data[0]
    network = classifier()
    x = images.float() / 127.5 - 1
    found = ClassifierFeatures(classifier_checkpoint(tmp_path / "c.ckpt"), "mine").extract(images)
    assert (
        found.features.shape == (5, 8) and found.logits.shape == (5, 10) and not found.features.requires_grad
    )
    assert torch.allclose(found.features, network.features(x), atol=1e-6)
    assert torch.allclose(found.logits, network(x), atol=1e-5)


def test_a_call_gives_the_features_of_an_extraction(tmp_path):
    features, images = (
        ClassifierFeatures(classifier_checkpoint(tmp_path / "c.ckpt"), "mine"),
        Digits(limit=9).data[0],
    )
    assert torch.equal(features(images), features.extract(images).features)


def test_fingerprints_tell_weights_apart(tmp_path):
    one, same, other = (
        ClassifierFeatures(classifier_checkpoint(tmp_path / f"{n}", seed), n)
        for n, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert features_identity(one, 8) == {"name": "a", "sha256": one.fingerprint(), "dim": 8, "resize": "none"}


@pytest.mark.parametrize("name", ["inception", "inception_6726825d", "inception_mine"])
def test_nobody_else_may_be_called_inception(name):
    with pytest.raises(FlowlitError, match=f"'{name}' is Inception's; choose another"):
        ClassifierFeatures("c.ckpt", name)


@pytest.mark.parametrize("name", ["", "a/b", "my features", "../x"])
def test_names_that_make_no_tag_are_refused(name):
    with pytest.raises(FlowlitError, match="becomes part of tags; use letters, digits and _"):
        ClassifierFeatures("c.ckpt", name)


def test_a_network_without_features_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match="UNet has no method `features`"):
        ClassifierFeatures(write_checkpoint(tmp_path / "c.ckpt", tiny_unet()), "mine")(
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        )


def test_constructors_load_nothing():
    Inception("/nowhere/weights.pth"), ClassifierFeatures("/nowhere/c.ckpt", "mine")


class Pooled(nn.Module):
    """A classifier of someone else's, without named levels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.spec = {"class_path": f"{__name__}.Pooled", "init_args": {}}

    def features(self, x):
        return x.flatten(1)[:, :5]

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_classifier_features_are_to_the_bit_what_the_method_gives(tmp_path, monkeypatch):
    images = Digits(limit=5).data[0]
    x = Pixels().encode(images)
    network = classifier().eval().requires_grad_(False)
    extracted = ClassifierFeatures(classifier_checkpoint(tmp_path / "c.ckpt"), "mine").extract(images)
    assert torch.equal(extracted.features, network.features(x)) and torch.equal(extracted.logits, network(x))
    other = Pooled()
    monkeypatch.setattr("flowlit.metrics.features.pretrained", lambda path, weights: other)
    extracted = ClassifierFeatures("other.ckpt", "other").extract(images)
    assert torch.equal(extracted.features, other.features(x)) and torch.equal(extracted.logits, other(x))


# ----------------------------------------------------------------------------------------------------------
# any network


def test_features_of_a_layer_are_averaged_over_positions():
    images = Digits(limit=5).data[0]
    network = classifier().eval()
    features = NetworkFeatures(network, "body", "mine", classifies=True)
    extracted = features.extract(images)
    x = Pixels().encode(images)
    assert torch.equal(extracted.features, network.features(x)) and torch.equal(extracted.logits, network(x))
    assert torch.equal(features(images), extracted.features) and features.resize == "none"
    flat = NetworkFeatures(network, "head", "mine")
    assert torch.equal(flat(images), network(x)) and flat.extract(images).logits is None


def test_fingerprints_tell_layers_and_sizes_apart():
    ways = [("body", None), ("head", None), ("body", 16)]
    extractors = [NetworkFeatures(classifier(), layer, "mine", resize) for layer, resize in ways]
    assert len({features.fingerprint() for features in extractors}) == 3
    assert extractors[0].fingerprint() == NetworkFeatures(classifier(), "body", "mine").fingerprint()
    assert extractors[2].resize == "bilinear to 16×16"


def test_a_layer_that_is_not_there_is_refused_by_name():
    with pytest.raises(FlowlitError, match=r"layers \['tail'\] not in SmallClassifier: \['body'"):
        NetworkFeatures(classifier(), "tail", "mine")
    with pytest.raises(FlowlitError, match="NetworkFeatures: the name 'inception' is Inception's"):
        NetworkFeatures(classifier(), "body", "inception")
