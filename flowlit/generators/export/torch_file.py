"""Programs of ``torch.export`` in files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from ...errors import FlowlitError
from ..core import NoiseToImages
from .program import quiet, traced

ENTRY = "flowlit.json"
"""Of the archive, beside the program."""


def torch_bytes(generator: NoiseToImages, facts: dict[str, Any]) -> bytes:
    """Return a generator as a file of ``torch.export.save``.

    Raises:
        FlowlitError: if it cannot be followed, naming the layer.
    """
    file = io.BytesIO()
    with quiet():
        torch.export.save(traced(generator), file, extra_files={ENTRY: json.dumps(facts, sort_keys=True)})
    return file.getvalue()


def open_program(path: Path) -> tuple[Any, str]:
    """Return the program of a file as a module, and the text of flowlit's facts in it, '' without.

    Raises:
        FlowlitError: if the file is torn, or none of ``torch.export``.
    """
    extra = {ENTRY: ""}
    try:
        with quiet():
            module = torch.export.load(str(path), extra_files=extra).module()
    except Exception as error:  # whatever a parser makes of bytes that are no program
        why = str(error).strip().partition("\n")[0][:160] or type(error).__name__
        raise FlowlitError(
            f"{path} is torn, or no program of torch.export ({why}); export or fetch it again"
        ) from error
    return module, extra[ENTRY] or ""
