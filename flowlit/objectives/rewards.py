"""Rewards: numbers of single images, larger for better ones, and their two uses, which are different things.

``RewardGradient`` follows a reward's gradient, and moves the generator's distribution to where it is larger.
``RewardWeight`` weighs the samples on which a divergence is lessened: where the generator can be exact it
ends at the guide's distribution, whatever the reward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import FlowlitError
from ..frozen import FrozenLayers
from ..ranges import Checked, Float, OneLine, PositiveFloat, number
from ..types import Cond, Pair, VelocityField, classes_of
from .base import SampleObjective
from .distances import per_sample

TINY = 1e-12
"""Under roots, whose slope at 0 would be infinite."""

if TYPE_CHECKING:
    Quality: TypeAlias = int
else:
    Quality = number(int, "from 1 to 100", lambda value: 1 <= value <= 100)


class Reward(OneLine, Checked, nn.Module, ABC):
    """Number of an image, larger for a better one. Images are in about [-1, 1], and none is clamped."""

    differentiable: ClassVar[bool] = True
    """Whether images get a gradient."""
    needs_label: ClassVar[bool] = False
    """Whether it looks at ``cond["label"]``."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W) under conditions (B, …)."""

    def check(self, network: nn.Module) -> None:
        """Refuse a generator without the labels that it needs; called before the first step.

        Raises:
            FlowlitError: saying what to give.
        """
        if self.needs_label and classes_of(network) == 0:
            raise FlowlitError(
                f"{type(self).__name__} needs labels, but {type(network).__name__} is unconditional; give it "
                "num_classes, and the data labels: true"
            )


class ClassifierReward(Reward):
    """Log-probability of an image's label by a frozen classifier.

    Args:
        network: images (B, C, H, W) in [-1, 1] to logits (B, classes), evaluated in float32: that of a
            ``Classifier`` module by ``flowlit.networks.pretrained``, with weights: raw.
        margin: return the label's logit minus the largest other one instead, which does not level off.
    """

    needs_label = True

    def __init__(self, network: nn.Module, margin: bool = False):
        super().__init__()
        self.classifier = FrozenLayers(network, [""])
        self.margin = margin

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W) under cond["label"] (B,)."""
        if "label" not in cond:
            raise FlowlitError("ClassifierReward: cond has no 'label'; give the data labels: true")
        logits = self.classifier(x)[""]
        label = cond["label"][:, None]
        own = logits.gather(1, label).squeeze(1)
        if not self.margin:
            return own - logits.logsumexp(1)
        return own - logits.scatter(1, label, -torch.inf).amax(1)


class Colourfulness(Reward):
    """Colourfulness of RGB images by Hasler and Süsstrunk 2003: 0 for grey ones, in units of [-1, 1]."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 3, H, W)."""
        red, green, blue = _rgb(x, self).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], 1).flatten(2)
        deviation = opponents.var(2, correction=0).sum(1)
        mean = opponents.mean(2).square().sum(1)
        return (deviation + TINY).sqrt() + 0.3 * (mean + TINY).sqrt()


class Saturation(Reward):
    """Largest minus smallest of red, green and blue, averaged over pixels: from 0 (grey) to 2."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 3, H, W)."""
        x = _rgb(x, self)
        return per_sample(x.amax(1) - x.amin(1))


class Brightness(Reward):
    """Minus the squared difference of the mean of an image and a target.

    Args:
        target: from -1 (black) to 1 (white).
    """

    def __init__(self, target: Float = 0.0):
        super().__init__()
        self.target = target

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -((per_sample(x) - self.target) ** 2)


class Sharpness(Reward):
    """Variance over inner pixels of the Laplacian of the channels' mean; 0 for planes."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W), of 3×3 pixels at least."""
        grey = x.mean(1)
        neighbours = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        return (neighbours - 4 * grey[:, 1:-1, 1:-1]).flatten(1).var(1, correction=0)


class TotalVariation(Reward):
    """Minus the mean absolute difference of neighbours, across and down: 0 for an image of one colour."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -per_sample(x.diff(dim=2).abs()) - per_sample(x.diff(dim=3).abs())


class MirrorSymmetry(Reward):
    """Minus the mean squared difference of an image and its mirror image, left for right."""

    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, C, H, W)."""
        return -per_sample((x - x.flip(3)) ** 2)


class JPEGSize(Reward):
    """Minus the bytes of an image as JPEG, without a gradient: smooth images are small.

    Args:
        quality: of the compression, from 1 to 100.
    """

    differentiable = False

    def __init__(self, quality: Quality = 75):
        super().__init__()
        self.quality = quality

    @torch.no_grad()
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return the rewards (B,) of images x (B, 1 or 3, H, W)."""
        from torchvision.io import encode_jpeg  # as heavy to import as PyTorch itself

        pixels = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        return x.new_tensor([-float(len(encode_jpeg(image, self.quality))) for image in pixels])


def _rgb(x: Tensor, reward: Reward) -> Tensor:
    if x.shape[1] == 3:
        return x
    raise FlowlitError(
        f"{type(reward).__name__}: images have {x.shape[1]} channels; expected 3 (red, green, blue)"
    )


class RewardGradient(SampleObjective):
    """Raise the reward of the generator's samples, through its gradient: the loss is -r(x) / temperature.

    Together with score distillation (``CombinedGame``) the generator's distribution tilts from the guide's p
    to p · exp(r / T), by the gradient of the reverse KL divergence. Losses of score distillation are averaged
    over the d entries of an image, so that T is ``temperature`` / d for the weight of that divergence,
    ``Powers(2, -1)``. It needs no critic, and in ``Combined`` takes any anchor; alone it has nothing to hold
    it.

    Args:
        reward: that has a gradient.
        temperature: the smaller, the more the reward counts.
    """

    trains_critic = False

    def __init__(self, reward: Reward, temperature: PositiveFloat = 1.0):
        super().__init__()
        if not reward.differentiable:
            raise FlowlitError(
                f"RewardGradient: {type(reward).__name__} has no gradient; expected one that has, or a "
                "flowlit.objectives.rewards.RewardWeight as reward of ReverseKL"
            )
        self.reward = reward
        self.temperature = temperature

    def on_attach(self, module: nn.Module) -> None:
        self.reward.check(module.network)  # type: ignore[arg-type]
        module.trains_flow = False  # type: ignore[assignment]

    def sample_loss(self, x: Tensor, critic: nn.Module, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()} of the generator's samples x (B, C, H, W)."""
        reward = self.reward(x, pair.cond).mean()
        return {"loss": -reward / self.temperature, "reward": reward.detach()}

    def forward(self, velocity: VelocityField, pair: Pair) -> dict[str, Tensor]:
        """Return {"loss": (), "reward": ()}: there is no critic in it."""
        return self.sample_loss(self.sample(velocity, pair), nn.Identity(), pair)


class RewardWeight(OneLine, Checked, nn.Module):
    """Weights of samples by their rewards: exp(β (r - mean r) / std r), clipped, divided by their mean.

    Mean and deviation are of the rows that a device works on at a time; one row, or equal rewards, weigh 1.
    Re-DMD (2512.04678), whose own code weighs by exp(β r) without any normalisation.

    Args:
        reward: of any kind, also without a gradient.
        beta: β; 2 in the paper.
        clip: largest weight before the division.
    """

    def __init__(self, reward: Reward, beta: Float = 2.0, clip: PositiveFloat = 5.0):
        super().__init__()
        self.reward = reward
        self.beta = beta
        self.clip = clip

    @torch.no_grad()
    def forward(self, x: Tensor, cond: Cond = {}) -> Tensor:
        """Return weights (B,) without a graph, of samples x (B, C, H, W); their mean is 1."""
        rewards = self.reward(x, cond).double()
        centred = rewards - rewards.mean()
        deviation = centred.square().mean().sqrt().clamp_min(1e-6 * rewards.abs().max() + 1e-30)
        weights = (self.beta * centred / deviation).exp().clamp_max(self.clip)
        return (weights / weights.mean()).to(x.dtype)
