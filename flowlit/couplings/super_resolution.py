"""Real images and their degraded copies: the ends of flows of super-resolution in training."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .. import rng
from ..data import PairedImages, Pixels
from ..data.degradations import Chain, Degradation, conditions, image_condition, seeded
from ..errors import FlowlitError
from ..paths import NoisedImage
from ..ranges import PositiveInt, Probability
from ..types import Codec, Cond, Coupling, ImageDataset, Pair
from .degraded import check_size, square, task_of
from .flip import mirrored
from .store.encoding import check_codec, codec_facts


class SuperResolution(Coupling):
    """x1 from ``images``, x0 near their degraded copies, which are the condition ``"image"``.

    Use it for teachers that enlarge or restore images, and for what is distilled from them. Of an image come,
    in this order: a square cut at random, mirrored; its degraded copy, drawn afresh in every step; c, that
    copy at the size of x1; and x0 of c and noise. The network reads c, see
    ``flowlit.networks.ConcatenatedImage``. OFTSR (2412.09465), ResShift (2307.12348).

    Args:
        images: high-resolution ones, of one size. ``PairedImages`` have their low-resolution ones with them.
        degradation: of high-resolution to low-resolution images.
        start: x0 of c and noise.
        crop: side of the square in pixels; None takes whole images.
        flip: mirror each image left to right with probability ½.
        vertical_flip: probability of mirroring an image top to bottom; OFTSR's is 0.06.
        codec: images to x1, the same as the model's; None is ``Pixels``.
        guide_steps: make a second condition, ``"guide_image"``: what the image is after so many steps of the
            ``Chain``. For ``flowlit.objectives.ScaleDistillation``, whose guide enlarges less.
        low: make another condition, ``"lr"``: the low-resolution image itself, in [-1, 1]. For
            ``flowlit.networks.SwinUNet``.
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
        low: bool = False,
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
        self.low = low

    @property
    def task(self) -> dict[str, Any]:
        """Scale, degradation and start as plain data, which checkpoints hold."""
        return task_of(self.degradation, self.start)

    def dataset(self) -> Dataset:
        if self.guide_steps is not None and isinstance(self.images, PairedImages):
            raise FlowlitError(
                "SuperResolution: guide_steps is given, but the small images are files, which have no milder "
                "ones; take images without small ones"
            )
        check_size(self.images, self.crop, self.degradation, self.source)
        return self.images

    def check_codec(self, codec: Codec) -> None:
        check_codec(codec_facts(self.codec), codec, self.source)

    def blank(self, image: Tensor, cond: Cond) -> tuple[Tensor, Cond]:
        """Return the shape of a cut image (C, H, W), and its conditions with "image", (c, h, w)."""
        cut = image if self.crop is None else image[:, : self.crop, : self.crop]
        names = ["image"] if self.guide_steps is None else ["image", "guide_image"]
        blank = torch.zeros(self.codec.encoded_shape(cut.shape))
        small = [side // self.degradation.scale for side in cut.shape[1:]]
        low = {"lr": torch.zeros(len(cut), *small)} if self.low else {}
        return cut, {**cond, **dict.fromkeys(names, blank), **low}

    def complete(self, batch: Any, device: torch.device) -> Pair:
        images, small = self._augmented(batch["x1"], batch.get("small"))
        x1 = self.codec.encode(images)
        if small is None:
            cond = self._degraded(images.float() / 255)
        else:
            cond = self._conditions(small.float() / 255)
        return Pair(self.start(cond["image"], rng.randn_like(x1)), x1, {**batch["cond"], **cond})

    def _degraded(self, images: Tensor) -> dict[str, Tensor]:
        """Return the conditions (B, c, h, w) of images (B, C, H, W) in [0, 1]."""
        generators = seeded(rng.randint(2**62, len(images)).tolist())
        if self.guide_steps is None:
            return self._conditions(self.degradation(images, generators))
        first, others = cast(Chain, self.degradation).split(self.guide_steps)
        middle = first(images, generators)
        given = self._conditions(others(middle, generators))
        return {**given, "guide_image": image_condition(middle, first, self.codec)}

    def _conditions(self, low: Tensor) -> dict[str, Tensor]:
        """Return what the network is given of low-resolution images (B, C, h, w) in [0, 1]."""
        return conditions(low, self.degradation, self.codec, self.low)

    def _augmented(self, images: Tensor, small: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return images (B, C, H, W) cut at random, (B, C, crop, crop), and mirrored; small ones alike."""
        count, _, height, width = images.shape
        both = {1: images} if small is None else {1: images, self.degradation.scale: small}
        if self.crop is not None:
            unit = max(both)  # cuts begin at pixels of the small images
            tops = unit * rng.randint((height - self.crop) // unit + 1, count)
            lefts = unit * rng.randint((width - self.crop) // unit + 1, count)
            corners = torch.stack([tops, lefts], 1)
            both = {scale: cut(each, corners // scale, self.crop // scale) for scale, each in both.items()}
        for dim, share in ((-1, 0.5 * self.flip), (-2, self.vertical_flip)):
            if share:
                chosen = rng.rand(count, images.device) < share
                both = {scale: mirrored(each, chosen, dim=dim) for scale, each in both.items()}
        return both[1], None if small is None else both[self.degradation.scale]

    @property
    def source(self) -> str:
        return f"images of {type(self.images).__name__}"


def cut(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return the squares (B, C, side, side) of images (B, C, H, W) from corners (B, 2), row and column."""
    return torch.stack([square(*place, side) for place in zip(images, corners.tolist(), strict=True)])


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
