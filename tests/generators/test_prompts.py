"""Generators of networks that read text: prompts by the encoder of training, which the checkpoint says."""

import numpy as np
import pytest
import tiny
import torch
from texts import Hashed, Reader
from tools import randomise, tiny_unet

import flowlit
from flowlit.couplings import Cached, PromptedImages, PromptedNoise, Simulated
from flowlit.data import Digits, Pixels, Prompts
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import FlowGuided, RectifiedFlow
from flowlit.solvers import Euler

SHAPE = (1, 8, 8)
DIGITS = Prompts(classes=[str(i) for i in range(10)])


def described(network, encoder=None):
    encoder = encoder or Hashed()
    network.text_encoder = {**encoder.spec, "fingerprint": encoder.fingerprint}
    return network


@pytest.fixture
def generator():
    return Generator(described(Reader()), Euler(2), Pixels())


def fit(root, coupling, noise=None, network=None, objective=None):
    data = FlowDataModule(coupling, batch_size=8, noise=noise)
    model = FlowModule(network or Reader(), objective or RectifiedFlow(), solvers={"euler2": Euler(2)})
    trainer = tiny.trainer(root, 2, limit_val_batches=0)
    trainer.fit(model, data)
    trainer.save_checkpoint(root / "last.ckpt")
    return model


def test_prompts_are_the_text_of_images_in_turn(generator):
    images = generator.sample(5, seed=3, prompts=["a", "b"])
    text = Hashed()(["a", "b", "a", "b", "a"])
    noise = PromptedNoise(SHAPE, 5, Prompts(texts=["a", "b"]), Hashed(), 3).batch(range(5))
    assert torch.equal(images, generator(noise.x0, {"text": text}))
    source = PromptedNoise(SHAPE, 5, Prompts(texts=["a", "b"]), Hashed())
    assert torch.equal(images, generator.sample(5, seed=3, source=source))
    assert torch.equal(generator.sample(5, seed=3, prompts=["a", "b"], batch_size=2), images)
    of_seeds = generator.sample(seeds=[4, 4], prompts=["a", "b"])
    assert torch.equal(of_seeds[:1], generator.sample(seeds=4, prompts="a"))
    assert not torch.equal(of_seeds[0], of_seeds[1])
    empty = generator.sample(seeds=4, prompts="")
    assert torch.equal(empty, generator(generator.noise(4), {"text": Hashed().null()[None]}))
    assert generator.trajectory([4], 3, prompts="a").shape == (1, 3, *SHAPE)
    way = generator.interpolate([4, 5], 3, prompts="a")
    assert torch.equal(way[[0, 2]], generator.sample(seeds=[4, 5], prompts="a"))


def test_networks_and_prompts_that_do_not_fit_are_refused(generator):
    plain = Generator(randomise(tiny_unet(), 1), Euler(1), Pixels())
    for call, message in (
        (lambda: generator.sample(2), "generates from text; give prompts"),
        (lambda: plain.sample(2, prompts="a"), "UNet reads no text; leave them out"),
        (lambda: generator.sample(2, prompts=[]), "prompts are .*; expected text"),
        (lambda: generator.sample(2, prompts=[3]), "a prompt is 3; expected text"),
        (lambda: generator.sample(2, prompts=b"a"), "expected text"),
        (lambda: generator.interpolate([1, 2], prompts=["a", "b"]), "expected one, of all images"),
        (
            lambda: Generator(Reader(), Euler(1), Pixels()).sample(2, prompts="a"),
            "does not say which encoder",
        ),
    ):
        with pytest.raises(FlowlitError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
    changed = described(Reader())
    changed.text_encoder["fingerprint"] = "of other weights"
    with pytest.raises(FlowlitError, match="has other weights or another vocabulary than in training"):
        Generator(changed, Euler(1), Pixels()).sample(2, prompts="a")


def test_files_have_the_encoder_of_training(tmp_path, generator):
    generator.save(tmp_path / "text.safetensors")
    loaded = flowlit.load(tmp_path / "text.safetensors")
    assert torch.equal(loaded.sample(3, prompts="a"), generator.sample(3, prompts="a"))
    paired = PromptedImages(Digits(limit=16), DIGITS, Hashed(5), 0.1)
    model = fit(tmp_path, paired)
    assert torch.equal(model.network.null_text, Hashed(5).null())
    averaged = dict(model.ema.named_buffers())
    assert torch.equal(averaged[next(name for name in averaged if "null_text" in name)], Hashed(5).null())
    loaded = flowlit.load(tmp_path / "last.ckpt", weights="raw")
    assert torch.equal(loaded.network.null_text, Hashed(5).null())
    x0 = loaded.noise([1])
    expected = loaded(x0, {"text": Hashed(5)(["a photo of a 3"])})
    assert torch.equal(loaded.sample(seeds=1, prompts="a photo of a 3"), expected)


def test_pairs_of_a_store_have_their_encoder_too(tmp_path):
    noise = PromptedNoise(SHAPE, 8, DIGITS, Hashed(2))
    data = FlowDataModule(PromptedImages(Digits(limit=16), DIGITS, Hashed(2)), noise=noise)
    model = FlowModule(Reader(), RectifiedFlow(), solvers={"euler2": Euler(2)})
    tiny.trainer(tmp_path, 1).couple(model, data, store=str(tmp_path / "store"), num=16, x0="float32")
    student = fit(tmp_path, Cached(str(tmp_path / "store"), text_dropout=0.2))
    assert torch.equal(student.network.null_text, Hashed(2).null())
    assert flowlit.load(tmp_path / "last.ckpt", weights="raw").sample(2, prompts="a").shape == (2, *SHAPE)
    other = PromptedNoise(SHAPE, 8, DIGITS, Hashed(3))
    with pytest.raises(FlowlitError, match=r"are encoded by Hashed.* give both the same encoder"):
        fit(tmp_path, Cached(str(tmp_path / "store")), other)


def test_another_encoder_than_that_of_training_is_refused(tmp_path):
    fit(tmp_path, PromptedImages(Digits(limit=16), DIGITS, Hashed(5)))
    data = FlowDataModule(noise=PromptedNoise(SHAPE, 8, DIGITS, Hashed(6)))

    def model(network=None):
        return FlowModule(network or Reader(), RectifiedFlow(), solvers={"euler2": Euler(2)})

    trainer = tiny.trainer(tmp_path, 1)
    message = r"encoded by Hashed.* \(hashed 6\), but the network was trained with Hashed\(seed=5"
    with pytest.raises(FlowlitError, match=message):
        trainer.validate(model(), data, ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    known = described(Reader(), Hashed(5))
    with pytest.raises(FlowlitError, match=message):
        trainer.validate(model(known), data, verbose=False)
    with pytest.raises(FlowlitError, match=message):
        trainer.couple(model(known), data, store=str(tmp_path / "store"), num=4)
    assert not (tmp_path / "store").exists()
    with pytest.warns(UserWarning, match="was trained with another text encoder"):
        fit(tmp_path, PromptedImages(Digits(limit=16), DIGITS, Hashed(7)), network=known)
    assert known.text_encoder["fingerprint"] == "hashed 7"


def test_a_guide_or_teacher_of_another_encoder_is_refused(tmp_path):
    noise = PromptedNoise(SHAPE, 8, DIGITS, Hashed(6))
    frozen = described(Reader(), Hashed(5))
    message = r"Reader, a guide or teacher, was trained with Hashed\(seed=5.*\(hashed 6\); give "
    with pytest.raises(FlowlitError, match=message):
        fit(tmp_path, Simulated(frozen, Euler(1), noise))
    guided = FlowGuided(frozen)
    with pytest.raises(FlowlitError, match=message):
        fit(tmp_path, PromptedImages(Digits(limit=16), DIGITS, Hashed(6)), objective=guided)
    fit(tmp_path, Simulated(described(Reader(), Hashed(6)), Euler(1), noise))


def test_an_encoder_that_cannot_be_described_takes_the_place_of_the_one_before(tmp_path):
    class Nameless(Hashed):
        spec = None

    known = described(Reader(), Hashed(5))
    with pytest.warns(UserWarning, match="was trained with another text encoder"):
        fit(tmp_path, PromptedImages(Digits(limit=16), DIGITS, Nameless(7)), network=known)
    with pytest.raises(FlowlitError, match="does not say which encoder"):
        flowlit.load(tmp_path / "last.ckpt", weights="raw").sample(2, prompts="a")


def test_flowlit_sample_takes_prompts(cli, tmp_path, generator):
    file = tmp_path / "text.safetensors"
    generator.save(file)
    outcome = cli("sample", file, "--prompt", "a red cat", "b", "--into", tmp_path / "out.npz")
    assert outcome.code == 0, outcome.err
    assert "2 images of 1×8×8" in outcome.out
    images = np.load(tmp_path / "out.npz")["arr_0"]
    np.testing.assert_array_equal(images[..., 0], generator.sample(2, prompts=["a red cat", "b"])[:, 0])
    refused = cli("sample", file, "--into", tmp_path / "no.npz")
    assert refused.code == 1 and "give prompts (flowlit sample --prompt" in refused.err
    words = ("--interpolate", "1", "2", "--prompt", "a", "b", "--into", tmp_path / "way.png")
    assert "one prompt for all" in cli("sample", file, *words).err
