"""Latents without a VAE: codes of a frozen encoder, a branch for what it drops, and a small decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import rng
from ..errors import FlowlitError
from ..frozen import check_layers, collected
from ..ranges import Checked, Fraction, PositiveInt
from .checkpoints.fingerprint import fingerprint
from .checkpoints.load import pretrained
from .checkpoints.spec import spec

Way = Literal["encode", "decode"]

FLOOR = 0.05
"""Smallest standard deviation that a code is divided by, in parts of the mean one: some never vary."""


class LatentAutoencoder(Checked, nn.Module):
    """Codes of a frozen encoder beside a trained branch for detail, and a trained decoder: RAE and SVG.

    The latent z (B, c + r, h, w) is a layer's output (B, c, h, w), less its mean and over its standard
    deviation at each place, and the branch's (B, r, h, w), brought to mean 0 and variance 1 in each image: no
    latent depends on others in its batch. The statistics are taken once and exactly (``measure``), and saved
    with the weights, those of the encoder too. Zheng et al. 2025 (2510.11690), Shi et al. 2025 (2510.15301),
    who normalise the branch by its batch.

    Args:
        encoder: images (B, C, H, W) in [-1, 1] -> anything; frozen here, in eval mode and float32.
        decoder: latents -> images.
        image_shape: (C, H, W) of an image.
        layer: of the encoder, whose output is taken; "" is its own.
        residual: images -> (B, r, h, w), trained; None leaves detail to the encoder.
        masked: share of training images whose branch is a learned constant, so that codes can do without.

    Raises:
        FlowlitError: if encoder, branch and decoder do not fit together.
    """

    mean: Tensor
    std: Tensor
    measured: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        image_shape: Sequence[PositiveInt],
        layer: str = "",
        residual: nn.Module | None = None,
        masked: Fraction = 0.1,
    ):
        super().__init__()
        check_layers(encoder, [layer])
        self.encoder = encoder.requires_grad_(False).eval()
        self.decoder = decoder
        self.residual = residual
        self.image_shape = tuple(image_shape)
        self.layer = layer
        self.masked = masked
        parts = {"encoder": encoder, "decoder": decoder, "residual": residual}
        described = {name: None if part is None else spec(part) for name, part in parts.items()}
        self.spec = {
            "class_path": "flowlit.networks.LatentAutoencoder",
            "init_args": {
                **{name: part for name, part in described.items() if part is not None},
                "image_shape": list(image_shape),
                "layer": layer,
                "masked": masked,
            },
        }
        self._fit_together()

    def _fit_together(self) -> None:
        """Make the statistics' buffers and the branch's constant, of the shapes of a blank image's codes."""
        blank = torch.zeros(1, *self.image_shape)
        code = self.code(blank)
        self.register_buffer("mean", torch.zeros_like(code[0]))
        self.register_buffer("std", torch.ones_like(code[0]))
        self.register_buffer("measured", torch.zeros((), dtype=torch.int64))
        with torch.no_grad():
            detail = None if self.residual is None else self.residual(blank)
            if detail is not None:
                if detail.shape[2:] != code.shape[2:]:
                    raise FlowlitError(
                        f"LatentAutoencoder: the branch has {_sides(detail)} positions, the encoder's layer "
                        f"{self.layer!r} {_sides(code)}; expected the same: change its halvings"
                    )
                used = bool(self.masked)  # by training: otherwise DDP would refuse it
                self.constant = nn.Parameter(torch.zeros_like(detail[0]), requires_grad=used)
            z = code if detail is None else torch.cat([code, detail], 1)
            try:
                image = self.decoder(z)
            except RuntimeError as error:
                raise FlowlitError(
                    f"LatentAutoencoder: the decoder does not take latents of shape {tuple(z.shape[1:])}: "
                    f"{str(error).partition(chr(10))[0]}; give it in_channels: {z.shape[1]}"
                ) from error
        if tuple(image.shape[1:]) != self.image_shape:
            raise FlowlitError(
                f"LatentAutoencoder: the decoder makes images of shape {tuple(image.shape[1:])} from latents "
                f"{tuple(z.shape[1:])}, expected {self.image_shape}; change its doublings or out_channels"
            )

    def train(self, mode: bool = True) -> LatentAutoencoder:
        super().train(mode)
        self.encoder.eval()
        return self

    def code(self, x: Tensor) -> Tensor:
        """Return the encoder's codes (B, c, h, w) of images (B, C, H, W), as they are; without a gradient.

        Raises:
            FlowlitError: for images of another shape, or a layer that is no map.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise FlowlitError(
                f"LatentAutoencoder: found images of shape {tuple(x.shape[1:])}, expected "
                f"{self.image_shape}, those it was made for"
            )
        off = torch.autocast(x.device.type, enabled=False)
        with torch.no_grad(), off, collected(self.encoder, [self.layer]) as outputs:
            self.encoder(x.float())
        code = outputs[self.layer]
        if code.dim() != 4:
            raise FlowlitError(
                f"LatentAutoencoder: layer {self.layer!r} of {type(self.encoder).__name__} returned "
                f"{tuple(code.shape)}, expected a map (B, c, h, w); take an earlier layer"
            )
        return code

    def encode(self, x: Tensor) -> Tensor:
        """Return latents (B, c + r, h, w) of images (B, C, H, W) in [-1, 1]."""
        z = (self.code(x) - self.mean) / self.std
        if self.residual is None:
            return z
        detail = F.layer_norm(self.residual(x).float(), self.constant.shape)
        if self.training and self.masked:
            hidden = rng.rand(len(x), x.device)[:, None, None, None] < self.masked
            detail = torch.where(hidden, self.constant, detail)
        return torch.cat([z, detail], 1)

    def decode(self, z: Tensor) -> Tensor:
        """Return images (B, C, H, W) near [-1, 1] of latents (B, c + r, h, w)."""
        return self.decoder(z)

    def forward(self, x: Tensor, way: Way | None = None) -> Tensor:
        """Return latents or images (B, …) as ``way`` says; None is there and back, (B, C, H, W)."""
        if way == "decode":
            return self.decode(x)
        return self.encode(x) if way == "encode" else self.decode(self.encode(x))

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Set mean and standard deviation of the codes, (c, h, w), of all images, in batches (B, C, H, W)."""
        count = 0
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for x in batches:
            code = self.code(x.to(self.mean.device)).double()
            count += len(code)
            total += code.sum(0)
            squares += code.square().sum(0)
        mean = total / max(count, 1)
        std = (squares / max(count, 1) - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(FLOOR * float(std.mean()) or 1.0))
        self.measured.fill_(count)


def _sides(code: Tensor) -> str:
    return "×".join(map(str, code.shape[2:]))


class StoredAutoencoder(Checked, nn.Module):
    """A ``LatentAutoencoder`` from a checkpoint of ``CodecModule``, frozen: for ``flowlit.data.Latents``.

    Args:
        checkpoint: of its training.
        sha256: of its weights, as descriptions of couplings and generators hold it; None takes any.

    Raises:
        FlowlitError: if the file has another network, or other weights.
    """

    def __init__(self, checkpoint: str, sha256: str | None = None):
        super().__init__()
        network: Any = pretrained(checkpoint, "raw")
        if not isinstance(network, LatentAutoencoder):
            raise FlowlitError(
                f"{checkpoint} holds {type(network).__name__}, expected a LatentAutoencoder; train one: "
                "flowlit fit -c experiments/latents/digits.yaml"
            )
        if not network.measured:
            raise FlowlitError(f"{checkpoint} has no statistics of its codes; train it for a step at least")
        weights = fingerprint(network)
        if sha256 not in (None, weights):
            raise FlowlitError(
                f"{checkpoint} has weights {weights[:12]}, expected {str(sha256)[:12]}: it was trained again "
                "since; bring the former file back, or make what depends on it again"
            )
        self.network = network.requires_grad_(False).eval()
        self.image_shape = network.image_shape
        self.fingerprint = weights
        self.spec = {
            "class_path": "flowlit.networks.StoredAutoencoder",
            "init_args": {"checkpoint": checkpoint, "sha256": weights},
        }

    def forward(self, x: Tensor, way: Way | None = None) -> Tensor:
        """Return latents or images (B, …), see ``LatentAutoencoder``."""
        return self.network(x, way)
