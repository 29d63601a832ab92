"""What a shard needs on the disk, and how a manifest names a codec."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from stores import fill

from flowlit.couplings import SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.encoding import check_codec, codec_facts, pair_bytes, stored_codec
from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.types import Codec


@dataclass
class Scaled(Codec):
    """A codec with a field."""

    scale: float = 2.0

    def encode(self, images):
        return images.float() / self.scale

    def decode(self, x1):
        return (x1 * self.scale).round().to(torch.uint8)


class Learned(Codec):
    """A codec with weights: a convolution, whose transpose decodes."""

    spec: ClassVar = {"class_path": f"{__name__}.Learned", "init_args": {}}

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.network = Frozen(torch.nn.Conv2d(1, 3, 2, 2, bias=False))
        self.fingerprint = f"weights of seed {seed}"

    def encode(self, images):
        return self.network(images.float() / 255)

    def decode(self, x1):
        weight = self.network.network.weight
        return (
            torch.nn.functional.conv_transpose2d(x1, weight, stride=2).mul(255).clamp(0, 255).to(torch.uint8)
        )


class Mystery(Codec):
    """A codec that does not say how it is built."""

    def __init__(self, table):
        self.table = table

    encode = decode = None


Mystery.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("x1", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("x0", ["float32", "float16", "seed"])
def test_a_pair_needs_what_its_shard_grows_by(x0, x1, classes, tmp_path):
    noise = SeededNoise((1, 4, 4), 48, seed=3, num_classes=classes)
    fill(tmp_path, origin=FromNoise(noise), num=48, shard_size=48, x0=x0, x1=x1)
    size = (tmp_path / "00000.safetensors").stat().st_size
    needed = 48 * pair_bytes((1, 4, 4), x0, x1, 8 if classes else 0)
    assert needed < size < needed + 1500, "a header, too"


def test_codecs_are_named_by_what_builds_them():
    assert codec_facts(Pixels()) is None, "of which manifests say nothing"
    assert codec_facts(Patches()) == {"class_path": "flowlit.data.Patches", "init_args": {}}
    assert codec_facts(Scaled(3.0))["init_args"] == {"scale": 3.0}
    assert codec_facts(Learned(1)) == {**Learned.spec, "fingerprint": "weights of seed 1"}


@pytest.mark.parametrize("codec", [Pixels(), Patches()])
def test_a_manifest_builds_its_codec(codec):
    facts = codec_facts(codec)
    assert type(stored_codec({"codec": facts} if facts else {})) is type(codec)


def test_a_codec_that_does_not_say_how_it_is_built_is_compared_but_not_built():
    facts = codec_facts(Mystery([1, 2]))
    check_codec(facts, Mystery([1, 2]), "these pairs")
    with pytest.raises(FlowlitError, match=r"these pairs have the codec .*Mystery"):
        check_codec(facts, Mystery([1, 3]), "these pairs")
    with pytest.raises(FlowlitError, match=r"Mystery, and their manifest does not say how it is built"):
        stored_codec({"codec": facts})


@pytest.mark.parametrize(
    ("data", "model"),
    [(Pixels(), Patches()), (Patches(), Pixels()), (Scaled(2.0), Scaled(3.0)), (Learned(0), Learned(1))],
)
def test_another_codec_is_refused_and_the_same_is_not(data, model):
    check_codec(codec_facts(data), data, "these pairs")
    with pytest.raises(FlowlitError, match=r"these pairs have the codec .*that of the model is"):
        check_codec(codec_facts(data), model, "these pairs")


def test_the_shapes_of_a_codec_with_weights_follow_from_its_network():
    assert Learned().encoded_shape((1, 8, 8)) == (3, 4, 4)
    assert Learned().decoded_shape((3, 4, 4)) == (1, 8, 8)
