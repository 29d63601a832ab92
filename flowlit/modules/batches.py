"""How a global batch is divided among devices and accumulated batches."""

from __future__ import annotations

from ..errors import FlowlitError


def accumulation(batch_size: int, devices: int, limit: int) -> int:
    """Batches to accumulate so that no device works on more than ``limit`` samples at a time: the fewest that
    divide evenly.

    >>> accumulation(128, devices=2, limit=24)
    4

    Raises:
        FlowlitError: if the devices cannot share the batch.
    """
    share, rest = divmod(batch_size, devices)
    if rest or limit < 1:
        raise FlowlitError(
            f"batch_size {batch_size} is that of one optimizer step and must divide by {devices} devices; "
            f"device_batch_size is {limit}, expected at least 1"
        )
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= limit)
