import urllib.error

import pytest
import torch
from tools import randomise, write_checkpoint

from flowlit.features import ClassifierFeatures, Inception, reference_moments
from flowlit.images import Digits
from flowlit.networks import SmallClassifier
from flowlit.types import Features, FlowlitError


class Mean(Features):
    """Two numbers an image: cheap, and known."""

    name = "mean"

    def __init__(self, weight=1.0):
        self.weight, self.calls = weight, 0

    def __call__(self, images):
        self.calls += len(images)
        flat = images.float().flatten(1) * self.weight
        return torch.stack([flat.mean(1), flat.std(1)], 1)

    def fingerprint(self):
        return str(self.weight)


def classifier_checkpoint(path, seed=0):
    return write_checkpoint(path, randomise(SmallClassifier(dim=8), seed))


def test_reference_moments_are_those_of_all_images(tmp_path):
    digits = Digits(limit=100)
    mean, cov = reference_moments(digits, Mean(), tmp_path, batch_size=32)
    expected = Mean()(digits.data[0]).double()
    assert torch.allclose(mean, expected.mean(0)) and torch.allclose(cov, expected.T.cov())


def test_reference_moments_are_computed_once_for_the_same_images_and_features(tmp_path):
    features = Mean()
    first = reference_moments(Digits(limit=50), features, tmp_path)
    assert features.calls == 50
    second = reference_moments(Digits(limit=50), features, tmp_path)
    assert features.calls == 50 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    reference_moments(Digits(limit=60), features, tmp_path)
    assert features.calls == 110, "other images"
    other = Mean(2.0)
    assert not torch.equal(reference_moments(Digits(limit=50), other, tmp_path)[0], first[0]), "other features"
    assert other.calls == 50 and len(list(tmp_path.glob("mean-*.safetensors"))) == 3


def test_classifier_features_are_those_of_its_network(tmp_path):
    path = classifier_checkpoint(tmp_path / "c.ckpt")
    images = Digits(limit=5).data[0]
    expected = randomise(SmallClassifier(dim=8)).eval().features(images.float() / 127.5 - 1)
    found = ClassifierFeatures(path, "digits_classifier")(images)
    assert found.shape == (5, 8) and torch.allclose(found, expected, atol=1e-6) and not found.requires_grad


def test_classifier_features_do_not_depend_on_the_batch(tmp_path):
    features, images = ClassifierFeatures(classifier_checkpoint(tmp_path / "c.ckpt"), "mine"), Digits(limit=9).data[0]
    assert torch.allclose(features(images)[4:5], features(images[4:5]), atol=1e-6)


def test_fingerprints_tell_weights_apart(tmp_path):
    one, same, other = (
        ClassifierFeatures(classifier_checkpoint(tmp_path / f"{n}", seed), n) for n, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_nobody_else_may_be_called_inception():
    with pytest.raises(FlowlitError, match="'inception' is Inception's; choose another"):
        ClassifierFeatures("c.ckpt", "inception")


def test_a_network_without_features_is_refused(tmp_path):
    from tools import tiny_unet

    with pytest.raises(FlowlitError, match="UNet has no method `features`"):
        ClassifierFeatures(write_checkpoint(tmp_path / "c.ckpt", tiny_unet()), "mine")(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_constructors_load_nothing():
    Inception("/nowhere/weights.pth"), ClassifierFeatures("/nowhere/c.ckpt", "mine")


def test_inception_without_a_network_says_what_to_do(monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as library

    def fail(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(library, "load_state_dict_from_url", fail)
    with pytest.raises(FlowlitError, match=r"no network.*weights-inception-2015-12-05-6726825d.pth.*features.weights"):
        Inception()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_inception_with_a_path_to_nothing():
    with pytest.raises(FlowlitError, match=r"not found in /nowhere/weights.pth"):
        Inception("/nowhere/weights.pth")(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_inception_gives_2048_features_for_colour_and_grey(monkeypatch, tmp_path):
    """With self-made weights: the published ones need a download."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.save({}, tmp_path / "weights.pth")
    features = Inception(str(tmp_path / "weights.pth"))
    grey = torch.randint(256, (1, 1, 8, 8), dtype=torch.uint8)
    found = features(grey)
    assert found.shape == (1, 2048) and found.dtype == torch.float32 and torch.isfinite(found).all()
    assert torch.equal(found, features(grey.repeat(1, 3, 1, 1)))
