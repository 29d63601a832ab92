"""The autoencoder with a codebook of latent diffusion, read from its files. Rombach et al. 2022 (2112.10752).

Its parts have the names of those files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import Checked, PositiveInt
from .checkpoints.fingerprint import fingerprint
from .checkpoints.load import mismatch, no_larger
from .checkpoints.read import read_state
from .checkpoints.tensors import check_finite
from .layers import full_precision
from .vq_layers import Codebook, Decoder, Encoder


class VQAutoencoder(Checked, nn.Module):
    """An autoencoder with a codebook: images (B, C, H, W) in [-1, 1] to latents (B, c, H/f, W/f), and back.

    Latents are not rounded to codes; decoding begins with that. The defaults are those of VQ-f4, whose
    latents are ResShift's.

    Args:
        channels: C.
        width: channels at the size of images; a multiple of 32.
        multipliers: of the width, one for each level; sizes halve from level to level.
        blocks: residual blocks a level in the encoder (one more in the decoder).
        latents: c.
        codes: how many the codebook has.
        inner: channels between encoder and latents; None is c.
    """

    def __init__(
        self,
        channels: PositiveInt = 3,
        width: PositiveInt = 128,
        multipliers: Sequence[PositiveInt] = (1, 2, 4),
        blocks: PositiveInt = 2,
        latents: PositiveInt = 3,
        codes: PositiveInt = 8192,
        inner: PositiveInt | None = None,
    ):
        super().__init__()
        if width % 32 or not multipliers:
            raise FlowlitError(
                f"VQAutoencoder: width {width} and {len(multipliers)} multipliers; expected a multiple of "
                "32, and one at least"
            )
        z = inner or latents
        widths = [width * m for m in multipliers]
        self.channels = channels
        self.latents = latents
        self.factor = 2 ** (len(widths) - 1)
        self.encoder = Encoder(channels, widths, blocks, z)
        self.decoder = Decoder(channels, widths, blocks, z)
        self.quantize = Codebook(codes, latents)
        self.quant_conv = nn.Conv2d(z, latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, z, 1)

    def forward(self, x: Tensor, way: Literal["encode", "decode"]) -> Tensor:
        """Return latents (B, c, H/f, W/f) of images (B, C, H, W), or the images of latents, in float32."""
        with full_precision(x.device):
            if way == "encode":
                return self.quant_conv(self.encoder(x.float()))
            return self.decoder(self.post_quant_conv(self.quantize(x.float())))


def sizes_of(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """Return the arguments of the ``VQAutoencoder`` of a state dict, tensors of any shape.

    Raises:
        FlowlitError: if it is none of an autoencoder with a codebook.
    """
    first = r"^encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight$"
    places = re.findall(first, "\n".join(state), re.MULTILINE)
    levels = sum(block == "0" for _, block in places)
    blocks = sum(level == "0" for level, _ in places)
    try:
        width, channels = state["encoder.conv_in.weight"].shape[:2]
        firsts = [state[f"encoder.down.{level}.block.0.conv1.weight"] for level in range(levels)]
        codes, latents = state["quantize.embedding.weight"].shape
        return {
            "channels": channels,
            "width": width,
            "multipliers": [first.shape[0] // width for first in firsts],
            "blocks": blocks,
            "latents": latents,
            "codes": codes,
            "inner": state["quant_conv.weight"].shape[1],
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise FlowlitError(
            f"checkpoint {file} holds no autoencoder with a codebook ({type(error).__name__}: {error}); "
            "expected one of latent diffusion or ResShift, as autoencoder_vq_f4.pth"
        ) from error


class StoredVQ(VQAutoencoder):
    """A ``VQAutoencoder`` from a file of latent diffusion or ResShift, frozen: for ``flowlit.data.VQ``.

    Args:
        checkpoint: as autoencoder_vq_f4.pth; a state dict, or one inside ``state_dict``.
        sha256: of its weights, as descriptions of generators hold it; None takes any.

    Raises:
        FlowlitError: if the file has other tensors, or other weights.
    """

    def __init__(self, checkpoint: str, sha256: str | None = None):
        state = {
            name: value for name, value in read_state(checkpoint).items() if not name.startswith("loss.")
        }
        sizes = sizes_of(state, checkpoint)
        try:
            with no_larger(state):
                super().__init__(**sizes)
        except ValueError as error:
            raise FlowlitError(f"checkpoint {checkpoint} cannot be an autoencoder: {error}") from error
        differences = mismatch(self.state_dict(), state)
        if differences:
            raise FlowlitError(
                f"checkpoint {checkpoint} holds another autoencoder than latent diffusion's: {differences}"
            )
        check_finite(state, self, f"checkpoint {checkpoint}")
        self.load_state_dict(state)
        self.requires_grad_(False).eval()
        self.fingerprint = fingerprint(self)
        if sha256 not in (None, self.fingerprint):
            raise FlowlitError(
                f"{checkpoint} has weights {self.fingerprint[:12]}, expected {str(sha256)[:12]}: bring the "
                "former file back, or make what depends on it again"
            )
        self.spec = {
            "class_path": "flowlit.networks.StoredVQ",
            "init_args": {"checkpoint": checkpoint, "sha256": self.fingerprint},
        }
