"""Real images and their degraded copies: the ends of flows of super-resolution in training."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import rng
from ..data import Pixels
from ..data.degradations import Chain, Degradation, image_condition, seeded
from ..errors import FlowlitError
from ..paths import NoisedImage
from ..ranges import PositiveInt, Probability
from ..types import Codec, Cond, Coupling, ImageDataset, Pair
from .degraded import check_size, task_of
from .flip import mirrored
from .store.encoding import check_codec, codec_facts


class SuperResolution(Coupling):
    """x1 from ``images``, x0 near their degraded copies, which are the condition ``"image"``.

    Use it for teachers that enlarge or restore images, and for what is distilled from them. Of an image come,
    in this order: a square cut at random, mirrored; its degraded copy, drawn afresh in every step; c, that
    copy at the size of x1; and x0 of c and noise. The network reads c, see
    ``flowlit.networks.ConcatenatedImage``. OFTSR (2412.09465), ResShift (2307.12348).

    Args:
        images: high-resolution ones, of one size.
        degradation: of high-resolution to low-resolution images.
        start: x0 of c and noise.
        crop: side of the square in pixels; None takes whole images.
        flip: mirror each image left to right with probability ½.
        vertical_flip: probability of mirroring an image top to bottom; OFTSR's is 0.06.
        codec: images to x1, the same as the model's; None is ``Pixels``.
        guide_steps: make a second condition, ``"guide_image"``: what the image is after so many steps of the
            ``Chain``. For ``flowlit.objectives.ScaleDistillation``, whose guide enlarges less.
    """

    def __init__(
        self,
        images: ImageDataset,
        degradation: Degradation,
        start: NoisedImage,
        crop: PositiveInt | None = None,
        flip: bool = False,
        vertical_flip: Probability = 0.0,
        codec: Codec | None = None,
        guide_steps: PositiveInt | None = None,
    ):
        if guide_steps is not None:
            check_chain(degradation, guide_steps)
        self.images = images
        self.degradation = degradation
        self.start = start
        self.crop = crop
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.codec = codec or Pixels()
        self.guide_steps = guide_steps

    @property
    def task(self) -> dict[str, Any]:
        """Scale, degradation and start as plain data, which checkpoints hold."""
        return task_of(self.degradation, self.start)

    def dataset(self) -> Dataset:
        check_size(self.images, self.crop, self.degradation, self.source)
        return self.images

    def check_codec(self, codec: Codec) -> None:
        check_codec(codec_facts(self.codec), codec, self.source)

    def blank(self, image: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
        """Return the shape of a cut image (C, H, W), and its conditions with "image", (c, h, w)."""
        cut = image if self.crop is None else image[:, : self.crop, : self.crop]
        names = ["image"] if self.guide_steps is None else ["image", "guide_image"]
        blank = torch.zeros(self.codec.encoded_shape(cut.shape))
        return cut, {**cond, **dict.fromkeys(names, blank)}

    def complete(self, batch: Any, device: torch.device) -> Pair:
        images = self._augmented(batch["x1"])
        x1 = self.codec.encode(images)
        cond = self._degraded(images.float() / 255)
        return Pair(self.start(cond["image"], rng.randn_like(x1)), x1, {**batch["cond"], **cond})

    def _degraded(self, images: Tensor) -> dict[str, Tensor]:
        """Return the conditions (B, c, h, w) of images (B, C, H, W) in [0, 1]."""
        generators = seeded(rng.randint(2**62, len(images)).tolist())
        if self.guide_steps is None:
            low = self.degradation(images, generators)
            return {"image": image_condition(low, self.degradation, self.codec)}
        first, others = cast(Chain, self.degradation).split(self.guide_steps)
        middle = first(images, generators)
        low = others(middle, generators)
        return {
            "image": image_condition(low, self.degradation, self.codec),
            "guide_image": image_condition(middle, first, self.codec),
        }

    def _augmented(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) cut at random, (B, C, crop, crop), and mirrored."""
        count, _, height, width = images.shape
        if self.crop is not None:
            tops = rng.randint(height - self.crop + 1, count).tolist()
            lefts = rng.randint(width - self.crop + 1, count).tolist()
            corners = zip(images, tops, lefts, strict=True)
            cut = [image[:, top : top + self.crop, left : left + self.crop] for image, top, left in corners]
            images = torch.stack(cut)
        if self.flip:
            images = mirrored(images, rng.rand(count, images.device) < 0.5)
        if self.vertical_flip:
            images = mirrored(images, rng.rand(count, images.device) < self.vertical_flip, dim=-2)
        return images

    @property
    def source(self) -> str:
        return f"images of {type(self.images).__name__}"


def check_chain(degradation: Degradation, guide_steps: int) -> None:
    """Refuse a degradation without a milder one inside.

    Raises:
        FlowlitError: saying what would have one.
    """
    if not isinstance(degradation, Chain) or guide_steps >= len(degradation.steps):
        raise FlowlitError(
            f"SuperResolution: guide_steps is {guide_steps}, but the degradation is {degradation!r}; "
            f"expected a flowlit.data.Chain of more than {guide_steps} steps"
        )
