"""The diffusion transformer (DiT) on pixels, built from timm's parts."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, cast

from einops import rearrange
from timm.layers import (
    AttentionRope,
    GELUTanh,
    LayerNormFp32,
    Mlp,
    PatchEmbed,
    RotaryEmbeddingCat,
    build_sincos2d_pos_embed,
)
from torch import Tensor, nn

from ..errors import FlowlitError
from ..ranges import NonNegativeInt, PositiveFloat, PositiveInt, Probability
from ..types import Cond
from .activation_checkpointing import recomputed
from .base import ConditionalNetwork, Second
from .checkpoints.spec import own_spec
from .layers import LabelEmbedding, TimeEmbedding, full_precision


class Modulation(nn.Module):
    """Shifts, scales and gates of adaLN-zero: (B, w) -> ``count`` of (B, 1, w). A fresh one returns 0.

    ``embedding`` comes after its SiLU, once for all blocks. Computed in full precision also under autocast.
    """

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.layer = nn.Linear(width, count * width)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Compute (B, w) -> ``count`` of (B, 1, w)."""
        with full_precision(embedding.device):
            return self.layer(embedding)[:, None].chunk(self.count, dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens (B, N, w) by (B, 1, w) each."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """Attention, then an MLP: tokens (B, N, w), embedding (B, w) -> (B, N, w); the identity when fresh."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float):
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.norm = LayerNormFp32(width, affine=False)
        self.attention = AttentionRope(width, heads, num_prefix_tokens=0, proj_drop=dropout)
        self.mlp = Mlp(width, int(width * mlp_ratio), act_layer=GELUTanh, drop=dropout)

    def forward(self, h: Tensor, embedding: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Compute (B, N, w), (B, w) -> (B, N, w).

        ``rotation`` (N, 2 · w / heads) has the sines and cosines that turn queries and keys, if any.
        """
        return recomputed(self, self._compute, h, embedding, rotation)

    def _compute(self, h: Tensor, embedding: Tensor, rotation: Tensor | None) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding)
        h = h + gate * self.attention(modulated(self.norm(h), shift, scale), rotation)
        return h + mlp_gate * self.mlp(modulated(self.norm(h), mlp_shift, mlp_scale))


class DiT(ConditionalNetwork):
    """A transformer of Peebles and Xie 2022 on patches: predict a velocity, x (B, C, R, R), t (B,) in [0, 1],
    cond -> (B, C, R, R).

    Conditions: {"label": (B,)} int64 with classes, {"r": (B,)} in [0, 1] with a second time, or {}.

    A fresh network returns 0. The defaults are DiT-S/2 for CIFAR-10; DiT-B/2 has width 768 and 12 heads.

    Args:
        resolution: R in pixels; divisible by ``patch``.
        in_channels: C.
        patch: side of the square of pixels that becomes one token; half of it makes four times the tokens.
        width: channels of a token.
        depth: blocks.
        heads: of attention; they divide ``width``.
        mlp_ratio: hidden channels of the MLPs, in units of ``width``.
        positions: "learned" vectors are added to the tokens, and start from sines and cosines; "rotary" turns
            queries and keys by angles in proportion to row and column (of base 100, for grids as small as
            ours: Heo et al. 2024, 2403.13298).
        dropout: in the MLPs, and of what attention and MLP add.
        num_classes: 0 for an unconditional network.
        label_dropout: probability of hiding the label in training, see ``LabelEmbedding``.
        time_scale: what times are multiplied by before their sines are taken.
        second_time: read ``cond["r"]``, as a flow map u(x, t, r) does; see ``ConditionalNetwork``. The
            decoder is the last third of the blocks.

    Raises:
        FlowlitError: if patch, heads or positions do not fit the size.

    Source: Peebles & Xie 2023 (2212.09748), adaLN-zero; initialisation and sizes are theirs.
    """

    def __init__(
        self,
        resolution: PositiveInt = 32,
        in_channels: PositiveInt = 3,
        patch: PositiveInt = 2,
        width: PositiveInt = 384,
        depth: PositiveInt = 12,
        heads: PositiveInt = 6,
        mlp_ratio: PositiveFloat = 4.0,
        positions: Literal["learned", "rotary"] = "learned",
        dropout: Probability = 0.0,
        num_classes: NonNegativeInt = 0,
        label_dropout: Probability = 0.0,
        time_scale: PositiveFloat = 999.0,
        second_time: Second = False,
    ):
        described = own_spec("DiT", locals())
        super().__init__()
        self.spec = described
        _check_sizes(resolution, patch, width, heads, positions)
        if not 1 <= width * mlp_ratio < 2**31:
            raise FlowlitError(f"DiT: mlp_ratio is {mlp_ratio}, which makes {width * mlp_ratio:g} channels")
        self.shape = (in_channels, resolution, resolution)
        self.patch = patch
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.time = TimeEmbedding(256, dim=width, scale=time_scale)
        self.label = LabelEmbedding(num_classes, width, label_dropout) if num_classes else None
        self.stem = PatchEmbed(resolution, patch, in_channels, width)
        learned = positions == "learned"
        grid = list(self.stem.grid_size)
        self.positions = nn.Parameter(build_sincos2d_pos_embed(grid, width)) if learned else None
        self._make_rotary = partial(
            RotaryEmbeddingCat, width // heads, temperature=100, in_pixels=False, feat_shape=grid
        )
        self.rotary = None if learned else self._make_rotary()
        self.blocks = nn.ModuleList([Block(width, heads, mlp_ratio, dropout) for _ in range(depth)])
        self.modulation = Modulation(width, 2)
        self.norm = LayerNormFp32(width, affine=False)
        self.head = nn.Linear(width, patch**2 * in_channels)
        self._initialise()
        self.add_second_time(256, width, second_time)

    def _initialise(self) -> None:
        """Draw linear layers Xavier-uniformly, embeddings with σ 0.02; modulation, head and biases are 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.stem.proj.weight.data.flatten(1))
        nn.init.zeros_(cast(Tensor, self.stem.proj.bias))
        embeddings = [self.time.layers[0], self.time.layers[2], *([self.label.table] if self.label else [])]
        for layer in embeddings:
            nn.init.normal_(cast(Tensor, layer.weight), std=0.02)
        for zero in [
            self.head,
            *(module.layer for module in self.modules() if isinstance(module, Modulation)),
        ]:
            nn.init.zeros_(zero.weight)

    def _apply(self, fn: Any, recurse: bool = True) -> DiT:
        """Compute the angles again: the state dict lacks them, and so does a network built on "meta"."""
        super()._apply(fn, recurse)
        self.rotary = None if self.rotary is None else self._make_rotary(device=self.head.weight.device)
        return self

    def checkpointable(self) -> list[nn.Module]:
        """Return the blocks, which can be computed again for the gradient."""
        return list(self.blocks)

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, R, R) at x (B, C, R, R) and t (B,), under conditions (B, …)."""
        embedding, decoding = self.embed(x, t, cond)
        h = self.stem(x)
        h = h if self.positions is None else h + self.positions
        rotation = None if self.rotary is None else self.rotary.get_embed()
        encoder = max(1, 2 * len(self.blocks) // 3)
        for i, block in enumerate(self.blocks):
            h = block(h, embedding if i < encoder else decoding, rotation)
        h = self.head(modulated(self.norm(h), *self.modulation(decoding)))
        rows = x.shape[2] // self.patch
        return rearrange(h, "b (i j) (p q c) -> b c (i p) (j q)", i=rows, p=self.patch, q=self.patch)


def _check_sizes(resolution: int, patch: int, width: int, heads: int, positions: str) -> None:
    if resolution % patch:
        raise FlowlitError(f"DiT: resolution {resolution} is not a multiple of patch {patch}")
    if width % heads:
        raise FlowlitError(f"DiT: width {width} is not a multiple of heads {heads}")
    turned = width // heads if positions == "rotary" else width
    if turned % 4:
        name = (
            f"width of a head, {width} / {heads} = {turned}," if positions == "rotary" else f"width {width}"
        )
        raise FlowlitError(
            f"DiT: {name} must be a multiple of 4 for {positions} positions: sine and cosine of row and "
            "column"
        )
