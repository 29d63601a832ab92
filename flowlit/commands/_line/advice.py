"""Lightning's advice and warnings that do not apply here."""

from __future__ import annotations

import logging
import warnings

ADVICE = (
    ".*does not have many workers.*",
    ".*no pre-optimization state was saved.*",  # nor should it be
    ".*LightningCLI's args parameter is intended.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",  # the run's lock is in it
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*module\\(s\\) in eval mode at the start of training.*",  # averages always are
    ".*LeafSpec.*",
    ".*recommended to use `self.log.*sync_dist=True.*",  # callbacks reduce by themselves
    ".*Couldn't infer the batch indices.*",  # a shard has its own
    ".*Total length of `DataLoader` across ranks is zero.*",  # a store may be complete
)
"""Warnings that do not apply here."""


def quiet() -> None:
    """Silence advice that does not apply, and Lightning's tips."""
    for message in ADVICE:
        warnings.filterwarnings("ignore", message)
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip: For seamless" not in record.getMessage())
