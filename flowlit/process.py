"""A stage must not outlive the pipeline that started it."""

from __future__ import annotations

import os
import threading
import time

PARENT = "FLOWLIT_PARENT"
"""Set by a pipeline for its stages: the process whose end they must not survive."""


def leave_with_parent() -> None:
    """End this process soon after the pipeline, or rank 0, that started it, lest a second one meet it in the same folder."""
    started_by_rank_0 = os.environ.get("LOCAL_RANK", "0") != "0"
    parent = int(os.environ.pop(PARENT, os.getppid() if started_by_rank_0 else 0))
    if not parent:
        return
    os.environ[PARENT] = str(os.getpid())  # further ranks are started from here, and must not outlive this one

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
