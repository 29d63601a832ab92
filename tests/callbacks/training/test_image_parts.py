"""The time of an image in its parts: prompts, network, decoder."""

import pytest
import torch
import torch.utils.benchmark
from evaluations import flow, run
from texts import Hashed, Reader

from flowlit.callbacks import Throughput
from flowlit.couplings import PromptedNoise
from flowlit.data import Pixels, Prompts
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler


class Clock:
    now = 0.0


class Slow(Hashed):
    """Takes two seconds for a block of prompts."""

    def encode(self, prompts):
        Clock.now += 2.0
        return super().encode(prompts)


class Latents(Pixels):
    """Takes 8 seconds to decode."""

    pixels = False

    def decode(self, x1):
        Clock.now += 8.0
        return super().decode(x1)


class Network(Reader):
    """Takes a second."""

    def forward(self, x, t, cond={}):
        Clock.now += 1.0
        return super().forward(x, t, cond)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(torch.utils.benchmark, "timer", lambda: Clock.now)


def validated(tmp_path, codec, encoder):
    noise = PromptedNoise((1, 8, 8), 40, Prompts(classes=list("abc")), encoder)
    solvers = {"euler1": Euler(1), "euler3": Euler(3)}
    model = FlowModule(Network(), RectifiedFlow(), solvers=solvers, codec=codec)
    data = FlowDataModule(noise=noise, noise_batch_size=20)
    return run(tmp_path, Throughput(batch_size=20, repeats=2), module=model, data=data)["metrics"]


def test_each_part_is_reported_by_itself(clock, tmp_path):
    """20 images: two blocks of prompts that are known already, one call of the decoder."""
    metrics = validated(tmp_path, Latents(), Slow())
    found = {name: value for name, value in metrics.items() if name.startswith("image_seconds")}
    assert found == pytest.approx(
        {
            "image_seconds/text": 2 * 2 / 20,
            "image_seconds/network/euler1": 1 / 20,
            "image_seconds/network/euler3": 3 / 20,
            "image_seconds/decoder": 8 / 20,
        }
    )
    assert metrics["images_per_s/euler3"] == pytest.approx(20 / 3)


def test_pixels_need_no_decoder(clock, tmp_path):
    metrics = validated(tmp_path, Pixels(), Slow())
    assert "image_seconds/decoder" not in metrics and metrics["image_seconds/text"] == pytest.approx(0.2)


def test_where_there_is_one_part_the_rate_says_it_all(tmp_path):
    metrics = run(tmp_path, Throughput(batch_size=8, repeats=1), module=flow(solvers={"euler1": Euler(1)}))
    assert not [name for name in metrics["metrics"] if name.startswith("image_seconds")]
    assert metrics["metrics"]["images_per_s/euler1"] > 0
