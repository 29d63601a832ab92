"""What several tests share with ``schedules/test_values.py``."""

from __future__ import annotations

import torch

from flowlit.schedules import WarmUp


def rates(steps, total, count, **options):
    """The learning rate, 2 in full, of each step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = WarmUp(optimizer, steps, total, **options)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found
