"""Parts of folders as diffusers and transformers write them, read without their hubs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._support.extras import without_bars
from ..errors import FlowlitError


def read_part(
    kind: Any,
    folder: Path,
    options: dict[str, Any],
    what: str = "text encoder",
    library: str = "transformers",
) -> Any:
    """Read a part from a folder, and nothing from a hub.

    Args:
        kind: its class, with ``from_pretrained``.
        folder: that it is in.
        options: of ``from_pretrained``; {} for a part without weights.
        what: it is, for messages.
        library: whose class it is, "diffusers" or "transformers".

    Raises:
        FlowlitError: if it is damaged, or of another architecture.
    """
    reporting = {"output_loading_info": True} if options else {}
    try:
        with without_bars(library):
            read = kind.from_pretrained(str(folder), local_files_only=True, **options, **reporting)
    except Exception as error:  # of many kinds
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise FlowlitError(
            f"{what} {folder} cannot be read as {kind.__name__} ({why}); fetch it again"
        ) from error
    if not reporting:
        return read
    model, report = read
    missing = sorted(map(str, {*report["missing_keys"], *report.get("mismatched_keys", ())}))
    if missing:
        raise FlowlitError(
            f"{what} {folder}: {len(missing)} tensors of a {kind.__name__} are missing or of another shape, "
            f"{missing[0]} first; fetch it again"
        )
    return model
