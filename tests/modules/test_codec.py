"""A codec that a stage has trained: exact resumption, what it reports, and flows of its latents."""

import autoencoders
import pytest
import runs
import tiny
import torch
from autoencoders import SHAPE, images
from commandline import in_process

import flowlit
from flowlit.couplings.store.encoding import codec_facts, stored_codec
from flowlit.data import EncoderLatents
from flowlit.data.codecs import from_levels
from flowlit.errors import FlowlitError
from flowlit.modules import CodecModule
from flowlit.modules.codec import quality
from flowlit.networks import StoredAutoencoder, UNet
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.types import Codec, Pair

NETWORK = tiny.unet(resolution=2, in_channels=10, multipliers=[1])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return autoencoders.trained(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def codec(checkpoint):
    return EncoderLatents(StoredAutoencoder(str(checkpoint)))


def with_codec(content, checkpoint):
    codec = autoencoders.codec(checkpoint)
    content["model"]["init_args"]["codec"] = codec
    content["data"]["init_args"]["coupling"]["init_args"]["codec"] = codec
    return content


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    """Statistics, noise on the latents and the optimizer's state are those of a whole run."""
    whole = autoencoders.trained(tmp_path / "whole", 5)
    autoencoders.trained(tmp_path / "parts", 3)
    parts = autoencoders.trained(tmp_path / "parts", 5, "--resume", "auto")
    counters = ("loops", "epoch", "hyper_parameters", "callbacks")  # a run that ends has ended an epoch
    assert runs.differences(whole, parts, counters) == []


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "masked"), [("ddp", 0.0), ("sharded", 0.1)])
def test_two_processes_train_as_one(tmp_path, flowlit, strategy, masked):
    """With the same draws for each image; without masks no parameter is left over that DDP would miss."""
    paths = {}
    for name in ("one", "two"):
        content = autoencoders.stage(tmp_path / name, 3)
        network = autoencoders.NETWORK
        arguments = {**network["init_args"], "masked": masked}
        content["model"]["init_args"]["network"] = {**network, "init_args": arguments}
        paths[name] = tiny.write(tmp_path / name / "run.yaml", content)
    assert in_process("fit", "-c", paths["one"]).code == 0
    two = ("--trainer.devices", "2", "--trainer.strategy", strategy)
    done = flowlit("fit", "-c", paths["two"], *two, PYTHONPATH=f"{runs.HELPERS}:{runs.HELPERS.parents[1]}")
    assert done.code == 0, done.err
    networks = [StoredAutoencoder(str(tmp_path / name / "checkpoints/last.ckpt")) for name in paths]
    assert torch.equal(networks[0].network.mean, networks[1].network.mean)
    x = images(24).float() / 127.5 - 1
    one, other = (network(x) for network in networks)  # some weights, before norms, change nothing
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_statistics_are_of_all_training_images(checkpoint):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert int(state["network.measured"]) == 24
    network = StoredAutoencoder(str(checkpoint)).network
    z = (network.code(images(24).float() / 127.5 - 1) - network.mean) / network.std
    assert z.mean(0).abs().max() < 1e-3 and z.shape[1:] == (8, 2, 2)


@pytest.mark.parametrize("tau", [0.0, 0.8])
def test_the_decoder_learns_from_latents_with_noise_and_is_tried_without(tau, monkeypatch):
    network = autoencoders.autoencoder(masked=0.0)
    x = images(200).float() / 127.5 - 1
    network.measure([x])
    module = CodecModule(network, noise=tau)
    monkeypatch.setattr(module, "log_training", lambda losses, rows: None)
    decoded = []
    network.decoder.register_forward_pre_hook(lambda part, given: decoded.append(given[0].detach()))
    torch.manual_seed(0)
    loss = module.train().training_step(Pair(torch.zeros_like(x), x), 0)
    assert loss.requires_grad and network.train()(x, "encode").requires_grad
    noise = decoded[0] - network(x, "encode").detach()
    levels = noise.square().mean((1, 2, 3)).sqrt()  # σ of each image, uniform in [0, τ]
    assert float(levels.mean()) == pytest.approx(tau / 2, abs=0.05)
    assert float(levels.std()) == pytest.approx(tau / 12**0.5, abs=0.05)
    network.eval()
    quality(network, images(4), None)
    torch.testing.assert_close(decoded[-1], network(from_levels(images(4)), "encode"))


def test_reconstruction_is_reported(tmp_path):
    content = autoencoders.stage(tmp_path, 4)
    held_out = {"class_path": "flowlit.data.Digits", "init_args": {"part": "test", "limit": 20}}
    content["data"]["init_args"]["validation"] = held_out
    features = {"network": autoencoders.ENCODER, "layers": ["body"]}
    content["model"]["init_args"]["distance"] = {
        "class_path": "flowlit.objectives.distances.FeatureDistance",
        "init_args": features,
    }
    content["trainer"] |= {"limit_val_batches": 1.0, "val_check_interval": 4, "check_val_every_n_epoch": None}
    content["trainer"]["callbacks"].append({"class_path": "flowlit.callbacks.Throughput"})
    content["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(tmp_path), "name": "", "version": ""},
    }
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert outcome.code == 0, outcome.err
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert 3 < float(last["val/psnr"]) < 30
    assert float(last["val/feature_distance"]) > 0


def test_the_codec_is_deterministic_and_has_one_shape(codec):
    digits = images(5)
    x1 = codec.encode(digits)
    assert x1.shape == (5, *SHAPE) and x1.dtype == torch.float32 and not x1.requires_grad
    assert torch.equal(x1, codec.encode(digits))
    again = codec.decode(x1)
    assert again.shape == digits.shape and again.dtype == torch.uint8
    assert torch.equal(again, codec.decode(x1))
    assert codec.encoded_shape((1, 8, 8)) == SHAPE and codec.decoded_shape(SHAPE) == (1, 8, 8)


def test_a_codec_without_a_branch_is_trained_and_used(tmp_path):
    content = autoencoders.stage(tmp_path, 2)
    arguments = {
        name: value for name, value in autoencoders.NETWORK["init_args"].items() if name != "residual"
    }
    decoder = autoencoders.DECODER["init_args"] | {"in_channels": 8}
    arguments["decoder"] = {**autoencoders.DECODER, "init_args": decoder}
    content["model"]["init_args"]["network"] = {**autoencoders.NETWORK, "init_args": arguments}
    run("fit", tmp_path / "run.yaml", content)
    codec = EncoderLatents(StoredAutoencoder(str(tmp_path / "checkpoints/last.ckpt")))
    x1 = codec.encode(images(3))
    assert x1.shape == (3, 8, 2, 2) == (3, *codec.encoded_shape((1, 8, 8)))
    assert codec.decode(x1).shape == (3, 1, 8, 8)


def test_its_description_builds_it_again(codec):
    again = build(spec(codec), Codec)
    assert torch.equal(again.encode(images(2)), codec.encode(images(2)))
    facts = codec_facts(codec)
    assert facts["fingerprint"] == codec.fingerprint
    assert codec_facts(stored_codec({"codec": facts})) == facts


def test_a_codec_that_was_trained_again_is_another(codec, checkpoint, tmp_path):
    """Latents of before would be decoded wrongly."""
    described = spec(codec)
    other = autoencoders.trained(tmp_path, 2)
    stored = described["init_args"]["autoencoder"]["init_args"]
    described = {
        "class_path": described["class_path"],
        "init_args": {
            "autoencoder": {
                **described["init_args"]["autoencoder"],
                "init_args": {**stored, "checkpoint": str(other)},
            }
        },
    }
    with pytest.raises(FlowlitError, match="was trained again since"):
        build(described, Codec)


def test_another_network_is_refused():
    with pytest.raises(FlowlitError, match=r"found UNet, expected .*StoredAutoencoder"):
        EncoderLatents(UNet(8, 1, 8, [1], 1, []))


def test_flows_couplings_and_flow_maps_work_in_it(checkpoint, tmp_path):
    """A teacher of latents, its pairs, and a flow map that learns from them and from images."""
    noise = {"noise": tiny.noise(8, shape=list(SHAPE))}
    teacher = tiny.fit(tmp_path / "teacher", network=NETWORK, coupling=tiny.digits(limit=24), data=noise)
    run("fit", tmp_path / "teacher.yaml", with_codec(teacher, checkpoint))
    file = str(tmp_path / "teacher/checkpoints/last.ckpt")
    pretrained = {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": file}}
    couple = tiny.fit(tmp_path, network=pretrained)
    couple["data"]["init_args"] = {"noise": tiny.noise(1, shape=list(SHAPE))}
    couple["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    couple |= {"store": str(tmp_path / "pairs"), "num": 16, "shard_size": 8, "batch_size": 8, "seed": 5}
    run("couple", tmp_path / "couple.yaml", couple)
    network = tiny.unet(resolution=2, in_channels=10, multipliers=[1], second_time=True, time_scale=1.0)
    student = tiny.fit(
        tmp_path / "map", "FlowModule", network, tiny.cached(tmp_path / "pairs"), data=noise, steps=2
    )
    student["model"]["init_args"] |= {
        "objective": {"class_path": "flowlit.objectives.flow_maps.MeanFlow"},
        "codec": autoencoders.codec(checkpoint),
        "solvers": {"jump1": {"class_path": "flowlit.solvers.Jumps", "init_args": {"steps": 1}}},
    }
    run("fit", tmp_path / "map.yaml", student)
    generator = flowlit.load(str(tmp_path / "map/checkpoints/last.ckpt"))
    assert isinstance(generator.codec, EncoderLatents) and generator.shape == SHAPE
    made = generator.sample(3, seed=0)
    assert made.shape == (3, 1, 8, 8) and made.dtype == torch.uint8


def run(command, path, content):
    outcome = in_process(command, "-c", tiny.write(path, content))
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("network", "noise", "message"),
    [
        (tiny.unet(), list(SHAPE), r"UNet takes images of shape \(1, 8, 8\).*\(10, 2, 2\)"),
        (tiny.unet(), [1, 8, 8], r"UNet.*\(1, 8, 8\).*\(10, 2, 2\)"),
        (NETWORK, [1, 8, 8], r"UNet takes images of shape \(10, 2, 2\).*\(1, 8, 8\)"),
    ],
)
def test_a_network_of_another_shape_is_refused_before_any_work(network, noise, message, checkpoint, tmp_path):
    data = {"noise": tiny.noise(8, shape=noise)}
    content = tiny.fit(tmp_path / "run", network=network, coupling=tiny.digits(limit=24), data=data)
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", with_codec(content, checkpoint)))
    assert_matches(outcome.error, message)
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()


def assert_matches(text, pattern):
    with pytest.raises(FlowlitError, match=pattern):
        raise FlowlitError(" ".join(text.split()))


def test_images_of_another_shape_are_refused_before_any_work(tmp_path):
    content = autoencoders.stage(tmp_path / "other")
    wide = {**autoencoders.NETWORK["init_args"], "image_shape": [1, 16, 16], "decoder": autoencoders.DECODER}
    network = {"class_path": autoencoders.NETWORK["class_path"], "init_args": wide}
    content["model"]["init_args"]["network"] = network
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert_matches(outcome.error, r"training images have shape \(1, 8, 8\).*image_shape is \(1, 16, 16\)")


def test_latents_are_no_training_images(tmp_path):
    content = autoencoders.stage(tmp_path / "run")
    content["data"]["init_args"]["coupling"]["init_args"]["codec"] = {"class_path": "flowlit.data.Patches"}
    outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content))
    assert_matches(outcome.error, r"CodecModule.*codec.*Patches")
