"""Errors for users: one clear sentence each."""

from __future__ import annotations

import re
import signal

WINDOWS = "Windows lacks what flowlit locks its files with; run it in WSL: wsl --install, then as on Linux"
"""Text of the error there."""
LONG = re.compile(r"(\S{200})\S{100,}(\S{60})")
"""Words of which an error has the first and the last letters only."""


class FlowlitError(Exception):
    """Error that a user can mend: what was found, what was expected, and the command that mends it.

    Shown without a traceback, and without the middle of words that are longer than a path has to be.
    """

    def __str__(self) -> str:
        return LONG.sub(r"\1…\2", super().__str__())


class NotFinite(FlowlitError):
    """Output of a network that is not finite."""


class Diverged(FlowlitError):
    """Divergence of a training run; ``Rollback`` goes back to where it had not diverged."""


class Stopped(BaseException):
    """End of training by a signal, with everything saved.

    ``code`` is the exit status of a process that the signal ends.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.code = 128 + signum
