"""A picture of a store: pairs side by side, and how far they are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch.nn.functional import pad

from ..._support.files import write_figure
from ..._support.formatting import in_figure
from ..._support.permutation import shuffled
from ...data import Pixels
from ...errors import FlowlitError
from ...types import Codec, Pair
from .encoding import restored_pair, stored_codec
from .reader import StoredPairs


def show(folder: str | Path, into: str | Path, seed: int = 0, grid: int = 32, rows: int = 4096) -> None:
    """Write a PNG: some pairs (noise above data), and histograms of ‖x0‖, ‖x1‖ and the straight line ‖x1 -
    x0‖.

    Args:
        folder: a finished store.
        into: the PNG.
        seed: which pairs are drawn.
        grid: pairs in the picture.
        rows: pairs in the histograms.
    """
    from matplotlib.figure import Figure

    pairs = StoredPairs([folder], checksums=False)  # `verify` reads every byte
    drawn = shuffled(np.arange(min(rows, len(pairs))), len(pairs), seed)
    x0, x1, _ = restored_pair(pairs.__getitems__(drawn))  # type: ignore[arg-type]
    figure = Figure(figsize=(12, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))  # type: ignore[misc]
    picture = left.subplots()
    picture.imshow(
        pictured(Pair(x0[:grid], x1[:grid]), stored_codec(pairs.manifest)), interpolation="nearest"
    )
    picture.set_axis_off()
    picture.set_title(f"{in_figure(Path(folder).name)}: {len(pairs):,} pairs, noise above data")
    lengths = {"‖x0‖": x0, "‖x1‖": x1, "‖x1 - x0‖": x1 - x0}
    for axes, (name, x) in zip(right.subplots(3), lengths.items(), strict=True):
        norms = x.flatten(1).norm(dim=1).numpy()
        axes.hist(norms, bins=50)
        axes.set_title(f"{name}: {norms.mean():.2f} ± {norms.std():.2f}")
        if name == "‖x0‖":
            axes.axvline(x0[0].numel() ** 0.5, color="black", label="√d, expected of noise")
            axes.legend()
    try:
        Path(into).parent.stat()  # a folder that is missing is likely a slip
        write_figure(Path(into), figure, dpi=120)
    except (OSError, ValueError) as error:
        raise FlowlitError(
            f"{into} cannot be written ({error}); choose another --into, ending in .png"
        ) from error


def pictured(pair: Pair, codec: Codec | None = None, across: int = 8) -> np.ndarray:
    """Arrange pairs in rows of eight, noise above data, as (H, W, 3) uint8; noise is scaled from ±3 to black
    and white.

    Args:
        pair: both ends (n, C, H, W).
        codec: of x1; None is ``Pixels``.
        across: pairs in a row.
    """
    codec = codec or Pixels()
    images = torch.stack([codec.decode(pair.x0 / 3), codec.decode(pair.x1)], 1)  # (n, 2, C, H, W)
    rgb = images[:, :, :3] if images.shape[2] >= 3 else images[:, :, :1].expand(-1, -1, 3, -1, -1)
    tiles = pad(rgb, (1, 1, 1, 1), value=128)
    across = min(across, len(tiles))
    white = tiles.new_full((-len(tiles) % across, *tiles.shape[1:]), 255)
    places = "(row column) end c h w -> (row end h) (column w) c"
    return rearrange(torch.cat([tiles, white]), places, column=across).numpy()
