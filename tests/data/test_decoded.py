"""Rewards of the images that latents stand for, and of the prompts that they were made of."""

from __future__ import annotations

import math

import pytest
import torch
from pipelines import pipeline, texts
from texts import Hashed
from tools import tiny_unet
from torch import nn

from flowlit.data import VAE, DecodedReward, Prompts
from flowlit.errors import FlowlitError
from flowlit.networks import as_velocity
from flowlit.objectives import PSO
from flowlit.objectives.rewards import Brightness, ClassifierReward, JPEGSize
from flowlit.types import Pair

pytest.importorskip("diffusers", reason="flowlit[text] is not installed")

NAMES = ["a cat", "a dog", "a ship"]


class Fixed(nn.Module):
    """A classifier that says the same of every image."""

    def forward(self, x):
        return torch.tensor([0.0, 1.0, 2.0]).expand(len(x), 3)


@pytest.fixture(scope="module")
def codec():
    return VAE(str(pipeline()))


def test_it_is_the_reward_of_the_decoded_images_with_its_gradient(codec):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rewards = DecodedReward(codec, Brightness())(x)
    assert torch.equal(rewards, Brightness()(codec.decoded(x)))
    assert torch.autograd.grad(rewards.sum(), x)[0].abs().sum() > 0
    assert not DecodedReward(codec, JPEGSize()).differentiable


def test_the_class_of_a_text_is_that_of_its_prompt(codec):
    reward = DecodedReward(codec, ClassifierReward(Fixed()), Prompts(texts=NAMES), Hashed())
    reward.check(nn.Identity())
    text = Hashed()(["a ship", "a cat", "a dog"])
    expected = torch.tensor([2.0, 0.0, 1.0]) - torch.tensor([0.0, 1.0, 2.0]).logsumexp(0)
    torch.testing.assert_close(reward(torch.zeros(3, 4, 8, 8), {"text": text}), expected)


def test_what_says_no_class_is_refused(codec):
    classifier = ClassifierReward(Fixed())
    with pytest.raises(FlowlitError, match="needs labels"):
        DecodedReward(codec, classifier).check(tiny_unet())
    with pytest.raises(FlowlitError, match="belong together"):
        DecodedReward(codec, classifier, Prompts(texts=NAMES))
    reward = DecodedReward(codec, classifier, Prompts(texts=NAMES), Hashed())
    with pytest.raises(FlowlitError, match="has no 'text'"):
        reward(torch.zeros(1, 4, 8, 8))
    with pytest.raises(FlowlitError, match="give the encoder of the pairs"):
        reward(torch.zeros(1, 4, 8, 8), {"text": torch.zeros(1, 5, 7)})


def test_a_generator_of_latents_under_prompts_learns_preferences(codec):
    network, reference = as_velocity(str(pipeline())), as_velocity(str(pipeline()))
    objective = PSO(reference, DecodedReward(codec, Brightness()), 0.7, 1, 2.0)
    pair = Pair(*torch.randn(2, 2, 4, 8, 8), {"text": texts(2)})
    parts = objective(network, pair)
    parts["loss"].backward()
    assert parts["loss"].item() == pytest.approx(math.log(2), abs=1e-4)
    assert all(weight.grad is None for weight in reference.parameters())
    assert sum(weight.grad.abs().sum() for weight in network.parameters() if weight.grad is not None) > 0
