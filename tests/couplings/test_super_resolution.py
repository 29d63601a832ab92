"""Degraded images as the start of training and of generation."""

import pytest
import torch

from flowlit import rng
from flowlit.couplings import DegradedImages, NoisedImage, SuperResolution
from flowlit.data import AveragePool, Bicubic, Chain, Digits, GaussianNoise, Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.modules.trial import first_rows

CPU = torch.device("cpu")
NOISY = Chain([AveragePool(2), GaussianNoise(0.1)])


def batch(images, rows):
    items = [images[i] for i in rows]
    cond = {key: torch.stack([item["cond"][key] for item in items]) for key in items[0]["cond"]}
    return {"x1": torch.stack([item["x1"] for item in items]), "cond": cond}


def drawn(coupling, rows, share=None):
    rng.begin(share or rng.Share(seed=4, total=len(rows), rows=len(rows)))
    try:
        return coupling.complete(batch(coupling.dataset(), rows), CPU)
    finally:
        rng.begin(None)


def test_a_start_is_near_its_image():
    image = torch.randn(2, 1, 4, 4)
    noise = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(NoisedImage(0.6)(image, noise), 0.8 * image + 0.6 * noise)
    assert torch.equal(NoisedImage(2.0, False)(image, noise), image + 2 * noise)
    assert torch.equal(NoisedImage(0)(image, noise), image)
    assert torch.equal(NoisedImage(1.0)(image, noise), noise)
    with pytest.raises(FlowlitError, match="expected 0 to 1, or preserve_variance"):
        NoisedImage(1.5)


def test_a_pair_is_the_image_and_its_degraded_copy():
    images = Digits(labels=True)
    pair = drawn(SuperResolution(images, AveragePool(4), NoisedImage(0.2)), [3, 1, 7, 0])
    x1 = Pixels().encode(batch(images, [3, 1, 7, 0])["x1"])
    c = x1.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)).repeat_interleave(4, 2)
    c = c.repeat_interleave(4, 3)
    assert torch.equal(pair.x1, x1) and pair.cond["label"].tolist() == [3, 1, 7, 0]
    torch.testing.assert_close(pair.cond["image"], c)
    noise = (pair.x0 - 0.96**0.5 * pair.cond["image"]) / 0.2
    assert abs(noise.mean()) < 4 / 16 and abs(noise.std() - 1) < 0.25
    assert len(noise.flatten().unique()) == noise.numel()


def test_noise_is_independent_of_the_degradation():
    coupling = SuperResolution(Digits(labels=False), GaussianNoise(1.0), NoisedImage(1.0))
    pair = drawn(coupling, range(64))
    degraded = (pair.cond["image"] - pair.x1).flatten() / 2
    assert abs(torch.corrcoef(torch.stack([degraded, pair.x0.flatten()]))[0, 1]) < 4 / 4096**0.5
    assert abs(degraded.std() - 1) < 0.05


def test_devices_share_the_draws_of_a_batch():
    images = Digits(labels=False)
    coupling = SuperResolution(images, NOISY, NoisedImage(0.3), crop=6, flip=True, vertical_flip=0.5)
    whole = drawn(coupling, [0, 1, 2, 3])
    for first in (0, 1):
        share = rng.Share(seed=4, total=4, rows=2, first=first, stride=2)
        part = drawn(coupling, [first, first + 2], share)
        assert torch.equal(part.x0, whole.x0[first::2]) and torch.equal(part.x1, whole.x1[first::2])
        assert torch.equal(part.cond["image"], whole.cond["image"][first::2])


def test_squares_are_cut_and_mirrored_before_degrading():
    images = Digits(labels=False)
    arguments = {"crop": 4, "flip": True, "vertical_flip": 0.5}
    pair = drawn(SuperResolution(images, AveragePool(2), NoisedImage(0.0), **arguments), [5] * 400)
    x1 = Pixels().encode(images[5]["x1"])
    windows = [x1[:, i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
    turned = [w.flip(dims) for w in windows for dims in ([], [-1], [-2], [-1, -2])]
    seen = {tuple(row.flatten().tolist()) for row in pair.x1}
    assert seen <= {tuple(w.flatten().tolist()) for w in turned}
    assert len(seen) > 80  # of 100
    pooled = torch.nn.functional.avg_pool2d(pair.x1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(pair.cond["image"], pooled)
    plain = drawn(SuperResolution(images, AveragePool(2), NoisedImage(0.0)), [5] * 20)
    assert torch.equal(plain.x1, x1.expand(20, -1, -1, -1))
    upright = drawn(SuperResolution(images, AveragePool(2), NoisedImage(0.0), vertical_flip=0.06), [5] * 400)
    flipped = (upright.x1 != x1).flatten(1).any(1).float().mean()
    assert abs(flipped - 0.06) < 4 * (0.06 * 0.94 / 400) ** 0.5


def test_the_guide_has_a_milder_condition_of_the_same_draws():
    chain = Chain([AveragePool(2), GaussianNoise(0.1), AveragePool(2), GaussianNoise(0.1)])
    arguments = (Digits(labels=False), chain, NoisedImage(0.2))
    pair = drawn(SuperResolution(*arguments, guide_steps=2), [0, 1, 2])
    plain = drawn(SuperResolution(*arguments), [0, 1, 2])
    assert torch.equal(pair.cond["image"], plain.cond["image"]) and torch.equal(pair.x0, plain.x0)
    mild = drawn(SuperResolution(arguments[0], chain.split(2)[0], NoisedImage(0.2)), [0, 1, 2])
    assert torch.equal(pair.cond["guide_image"], mild.cond["image"])
    nested = SuperResolution(
        arguments[0], Chain([AveragePool(2), AveragePool(2)]), NoisedImage(0.2), guide_steps=1
    )
    cond = drawn(nested, [3]).cond
    pooled = torch.nn.functional.avg_pool2d(cond["guide_image"], 4)
    torch.testing.assert_close(pooled, torch.nn.functional.avg_pool2d(cond["image"], 4))
    _, blank = first_rows(nested.dataset(), Pixels(), CPU, nested)
    assert blank.keys() == cond.keys()
    for degradation in (AveragePool(4), Chain([AveragePool(4)])):
        with pytest.raises(FlowlitError, match="Chain of more than 1 steps"):
            SuperResolution(arguments[0], degradation, NoisedImage(0.2), guide_steps=1)


def test_latents_have_the_condition_of_their_codec():
    coupling = SuperResolution(Digits(labels=False), Bicubic(2), NoisedImage(0.2), codec=Patches())
    coupling.check_codec(Patches())
    with pytest.raises(FlowlitError, match="Patches"):
        coupling.check_codec(Pixels())
    pair = drawn(coupling, [0, 1])
    assert pair.x0.shape == pair.x1.shape == pair.cond["image"].shape == (2, 4, 4, 4)
    x, cond = first_rows(coupling.dataset(), Patches(), CPU, coupling)
    assert x.shape == cond["image"].shape == (2, 4, 4, 4)


@pytest.mark.parametrize("codec", [Pixels(), Patches()], ids=repr)
def test_the_low_resolution_image_itself_is_a_condition_too(codec):
    """Of the same draws as the image at the size of x1, in training and in generation."""
    images = Digits(labels=False)
    coupling = SuperResolution(images, NOISY, NoisedImage(0.2), crop=4, codec=codec, low=True)
    pair = drawn(coupling, [0, 1, 2])
    plain = drawn(SuperResolution(images, NOISY, NoisedImage(0.2), crop=4, codec=codec), [0, 1, 2])
    assert torch.equal(pair.x0, plain.x0) and torch.equal(pair.cond["image"], plain.cond["image"])
    large = pair.cond["lr"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    pixels = codec.decode(pair.cond["image"]).float() / 127.5 - 1
    assert (pixels - large.clamp(-1, 1)).abs().max() < 2 / 255
    _, blank = first_rows(coupling.dataset(), codec, CPU, coupling)
    assert {name: value.shape[1:] for name, value in blank.items()} == {
        name: value.shape[1:] for name, value in pair.cond.items()
    }
    rows, without = (source(codec=codec, low=low) for low in (True, False))
    assert torch.equal(rows.batch([3]).x0, without.batch([3]).x0) and "lr" not in without.batch([3]).cond
    assert torch.equal(rows.first(2).batch([1]).cond["lr"], rows.batch([1]).cond["lr"])
    assert rows.batch([1]).cond["lr"].shape == (1, 1, 4, 4)
    assert rows.identity() == {**without.identity(), "low": True}


def test_what_a_network_is_tried_on_has_the_size_of_the_square():
    coupling = SuperResolution(Digits(labels=True), AveragePool(2), NoisedImage(0.2), crop=6)
    x, cond = first_rows(coupling.dataset(), Pixels(), CPU, coupling)
    assert x.shape == cond["image"].shape == (2, 1, 6, 6) and cond["label"].shape == (2,)


def source(num=12, **arguments):
    given = {"degradation": NOISY, "start": NoisedImage(0.2)} | arguments
    return DegradedImages(Digits("test", limit=5, labels=False), num=num, **given)


def test_rows_depend_on_their_index_alone():
    rows = source()
    several = rows.batch([7, 2, 11])
    for place, i in enumerate((7, 2, 11)):
        one = rows.batch([i])
        assert torch.equal(one.x0[0], several.x0[place])
        assert torch.equal(one.cond["image"][0], several.cond["image"][place])
    assert torch.equal(rows[2].x0, several.x0[1]) and several.index.tolist() == [7, 2, 11]
    assert torch.equal(rows.first(3).batch([2]).x0, rows.batch([2]).x0) and len(rows.first(3)) == 3
    assert not torch.equal(rows.reseeded(1).batch([2]).cond["image"], rows.batch([2]).cond["image"])


def test_later_rows_ask_the_same_and_start_elsewhere():
    rows = source().batch([2, 7])
    assert torch.equal(rows.cond["image"][0], rows.cond["image"][1])
    assert not torch.equal(rows.x0[0], rows.x0[1])
    assert torch.equal(source().targets([2]), source().targets([7]))


def test_rows_are_of_the_law_of_training():
    coupling = SuperResolution(source().images, AveragePool(4), NoisedImage(0.2))
    rows = source(degradation=AveragePool(4)).batch([0, 3])
    pair = drawn(coupling, [0, 3])
    assert torch.equal(rows.cond["image"], pair.cond["image"])
    assert abs((rows.x0 - 0.96**0.5 * rows.cond["image"]).std() / 0.2 - 1) < 0.3


def test_a_source_describes_itself():
    rows = source(crop=4, degradation=AveragePool(2))
    assert rows.shape == (1, 4, 4) and rows.num_classes == 0
    assert torch.equal(rows.targets([1])[0], rows.images[1]["x1"][:, 2:6, 2:6])
    facts = rows.identity()
    assert facts["scale"] == 2 and facts["source"] == "flowlit.couplings.DegradedImages"
    assert facts["degradation"]["class_path"] == "flowlit.data.AveragePool"
    assert facts["start"]["init_args"] == {"sigma": 0.2, "preserve_variance": True}
    labelled = DegradedImages(Digits(limit=20), AveragePool(2), NoisedImage(0.2), num=3)
    assert labelled.num_classes == 10 and labelled.batch([0, 1]).cond["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"crop": 9}, "crop is 9, but images of Digits have 8×8 pixels"),
        ({"crop": 5}, "crop is 5, no multiple of the degradation's scale 2"),
        ({"degradation": AveragePool(3)}, "have 8×8 pixels, no multiple of the degradation's scale 3; set"),
    ],
)
def test_images_that_do_not_divide_are_refused(arguments, expected):
    given = {"degradation": NOISY, "start": NoisedImage(0.2)} | arguments
    with pytest.raises(FlowlitError, match=expected):
        SuperResolution(Digits(limit=3), **given).dataset()
    with pytest.raises(FlowlitError, match=expected):
        _ = DegradedImages(Digits(limit=3), num=3, **given).shape
