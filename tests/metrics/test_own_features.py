"""Features without labels, and the choice among extractors by what is there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commandline import REPOSITORY, in_process
from pictures import encoded, into_zip
from PIL import Image
from tools import classifier_checkpoint, write_checkpoint

from examples import shapes
from flowlit import rng
from flowlit.data import ImageZip
from flowlit.errors import FlowlitError
from flowlit.metrics import ClassifierFeatures, FirstAvailable, OwnFeatures
from flowlit.metrics.fidelity import tag
from flowlit.metrics.frechet import Moments, frechet_distance
from flowlit.modules import Contrastive
from flowlit.modules.classifier import random_crop, spoilt
from flowlit.networks import SmallEncoder
from flowlit.networks.classifier import details
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
    assert crops.shape == (5, 1, 6, 6)
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 5


def test_crops_are_parts_of_their_image_mirrored_or_not():
    x = torch.arange(40 * 2 * 8 * 12.0).reshape(40, 2, 8, 12)
    crops = random_crop(x)
    mirrored = 0
    for image, crop in zip(x, crops, strict=True):
        assert crop.shape == (2, 6, 9)
        turned = bool(crop[0, 0, 0] > crop[0, 0, 1])
        mirrored += turned
        crop = crop.flip(2) if turned else crop
        i, j = divmod(int(crop[0, 0, 0] - image[0, 0, 0]), 12)
        assert torch.equal(crop, image[:, i : i + 6, j : j + 9])
    assert 5 < mirrored < 35


def test_spoilt_copies_are_blurred_or_noisy_and_never_the_same():
    x = random_crop(IMAGES.float() / 127.5 - 1).repeat(20, 1, 1, 1)
    found = spoilt(x)
    assert ((found - x).flatten(1).abs().mean(1) > 0.01).all()
    flat = torch.zeros(120, 1, 8, 8)
    still = (spoilt(flat) == 0).flatten(1).all(1)
    assert 30 < still.sum() < 90, "where there is nothing to blur, at the border neither, it is the same"


def test_details_are_what_a_blur_takes_away():
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert details(flat).abs().max() < 1e-5, "at the border neither"
    noise = 8 / 127.5 * (2 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1)
    assert details(flat + noise).abs().mean() > 0.15, "noise of 8 levels in 255 is well seen"
    sharp = torch.sign(torch.linspace(-1, 1, 16)).expand(2, 3, 16, 16)
    soft = F.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
    assert 1 >= details(sharp).abs().max() > details(soft).abs().max()


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
    assert features(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 67)


def pixels(generator):
    return generator.integers(0, 256, (16, 16, 3), np.uint8)


# what they see


def blurred(images):
    soft = F.avg_pool2d(images.float(), 3, 1, 1, count_include_pad=False)
    return soft.round().to(torch.uint8)


def noisy(images):
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) * 16 - 8
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def halved(images):
    small = F.avg_pool2d(images.float(), 2)
    return F.interpolate(small, scale_factor=2, mode="bilinear").round().clamp(0, 255).to(torch.uint8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_blur_noise_and_half_resolution_are_seen_in_few_drawn_pictures(tmp_path):
    """The distance of half of the pictures to the other half, as they are and spoilt (docs/recipes.md)."""
    place = shapes.into_folder(tmp_path / "my_images", 300)
    zipped = tmp_path / "root/images/images.zip"
    assert in_process("images", place, "--resolution", 32, "--into", zipped).code == 0
    own = REPOSITORY / "experiments/own/features.yaml"
    words = ("--vars.root", tmp_path / "root", "--trainer.max_steps", 100, "--trainer.accelerator", "cpu")
    assert in_process("fit", "-c", own, *words).code == 0
    features = OwnFeatures(str(tmp_path / "root/features/checkpoints/last.ckpt"))
    images = ImageZip(str(zipped), labels=True)
    batch = [images[int(i)] for i in torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    pictures = torch.stack([each["x1"] for each in batch])
    first, second = pictures[:150], pictures[150:]
    labels = torch.stack([each["cond"]["label"] for each in batch[150:]])

    def moments(part):
        kept = Moments(67)
        kept.update(features(part))
        return kept.compute()

    def distance(others):
        return frechet_distance(*moments(first), *moments(others))

    found = {"as they are": distance(second), "one class less": distance(second[labels > 0])}
    found |= {work.__name__: distance(work(second)) for work in (blurred, noisy, halved)}
    print(found)
    assert all(found[name] > 4 * found["as they are"] for name in ("blurred", "noisy", "halved")), found
