"""Decoding of image files: the one place where they become pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import FlowlitError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def decode(file: Any, name: str, resolution: int | None, channels: int) -> Tensor:
    """Decode one image to uint8 (C, H, W).

    Raises:
        FlowlitError: if it is broken or of another resolution.
    """
    try:
        with Image.open(file) as image:
            array = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise FlowlitError(f"{name} is not a readable image ({error}); replace or remove it") from error
    if resolution is not None and array.shape[:2] != (resolution, resolution):
        height, width = array.shape[:2]
        raise FlowlitError(
            f"{name} is {width}×{height} pixels, expected {resolution}×{resolution}; resize the images first"
        )
    return torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1).contiguous()
