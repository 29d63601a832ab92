"""Features without labels, and the choice among extractors by what is there."""

import numpy as np
import pytest
import torch
from commandline import REPOSITORY, in_process
from pictures import encoded, into_zip
from PIL import Image
from tools import classifier_checkpoint, write_checkpoint

from flowlit import rng
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures, FirstAvailable, OwnFeatures
from flowlit.metrics.fidelity import tag
from flowlit.modules import Contrastive
from flowlit.modules.classifier import random_crop, spoilt
from flowlit.networks import SmallEncoder
from flowlit.types import Pair

IMAGES = torch.randint(256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    return write_checkpoint(tmp_path / "encoder.ckpt", SmallEncoder(1, 8))


def test_own_features_are_named_so_everywhere(encoder):
    features = OwnFeatures(encoder, "shapes")
    assert features.name == "own_shapes" and tag(features.name) == "frechet_own_shapes"


def test_own_features_are_those_of_the_trunk_and_have_no_classes(encoder):
    found = OwnFeatures(encoder).extract(IMAGES)
    torch.manual_seed(0)
    network = SmallEncoder(1, 8).eval()
    assert torch.allclose(found.features, network.features(IMAGES.float() / 127.5 - 1), atol=1e-6)
    assert found.logits is None and not OwnFeatures.classifies


def test_features_with_labels_and_without_are_not_taken_for_each_other(encoder, tmp_path):
    with pytest.raises(FlowlitError, match=r"trained without labels; .*flowlit\.metrics\.OwnFeatures"):
        ClassifierFeatures(encoder, "mine").fingerprint()
    labelled = classifier_checkpoint(tmp_path / "labelled.ckpt")
    with pytest.raises(FlowlitError, match="holds SmallClassifier, expected a SmallEncoder"):
        OwnFeatures(labelled).fingerprint()


def test_the_first_extractor_that_is_there_is_taken_and_named(encoder):
    absent = OwnFeatures("/nowhere/a.ckpt", "a")
    there = OwnFeatures(encoder, "b")
    features = FirstAvailable([absent, there])
    assert (features.name, features.missing(), features.classifies) == ("own_b", "", False)
    assert features.fingerprint() == there.fingerprint() and features.resize == "none"
    assert torch.equal(features(IMAGES), there(IMAGES))


def test_where_none_is_there_every_one_is_named(encoder):
    features = FirstAvailable([OwnFeatures("/nowhere/a.ckpt"), ClassifierFeatures("/nowhere/b.ckpt", "b")])
    assert "/nowhere/a.ckpt does not exist" in features.missing()
    assert "/nowhere/b.ckpt does not exist" in features.missing()
    with pytest.raises(FlowlitError, match=r"/nowhere/a\.ckpt"):
        features(IMAGES)


def test_an_empty_choice_is_refused():
    with pytest.raises(FlowlitError, match="extractors is empty"):
        FirstAvailable([])


def test_crops_are_drawn_by_the_step_and_stay_in_the_images():
    ramp = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).expand(5, -1, -1, -1)
    rng.begin(rng.Share(seed=3, total=5, rows=5))
    try:
        crops = random_crop(ramp)
    finally:
        rng.begin(None)
    rng.begin(rng.Share(seed=3, total=5, rows=2, first=1, stride=2))
    try:
        assert torch.allclose(random_crop(ramp[1::2]), crops[1::2]), "the same on another device"
    finally:
        rng.begin(None)
    assert crops.shape == ramp.shape and crops.abs().max() <= 1 + 1e-6
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 5


def test_spoilt_copies_are_blurred_or_noisy_and_never_the_same():
    x = random_crop(IMAGES.float() / 127.5 - 1)
    found = spoilt(x)
    assert ((found - x).flatten(1).abs().mean(1) > 0.01).all()
    assert (found[1::2].flatten(1).std(1) < x[1::2].flatten(1).std(1)).all(), "blurred"
    flat = torch.zeros(4, 1, 8, 8)
    assert torch.equal(spoilt(flat)[1::2], flat[1::2]), "nothing to blur, at the border neither"


def test_a_batch_of_one_image_is_refused():
    module = Contrastive(SmallEncoder(1, 8))
    with pytest.raises(FlowlitError, match="a batch of one image"):
        module.training_step(Pair(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)), 0)


def test_the_shipped_training_makes_features_that_an_evaluation_takes(tmp_path):
    generator = np.random.default_rng(0)
    pictures = {f"{i}.png": encoded(Image.fromarray(pixels(generator))) for i in range(40)}
    (tmp_path / "images").mkdir()
    into_zip(tmp_path / "images/images.zip", pictures)
    few = ["--trainer.max_steps", 2, "--data.batch_size", 8, "--trainer.accelerator", "cpu"]
    outcome = in_process(
        "fit", "-c", REPOSITORY / "experiments/own/features.yaml", "--vars.root", tmp_path, *few
    )
    assert outcome.code == 0, outcome.err
    features = OwnFeatures(str(tmp_path / "features/checkpoints/last.ckpt"))
    assert features.missing() == "" and features.name == "own_images"
    assert features(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 64)


def pixels(generator):
    return generator.integers(0, 256, (16, 16, 3), np.uint8)
