"""What can go wrong, for users: one clear sentence each."""

from __future__ import annotations

import signal


class FlowlitError(Exception):
    """Tell a user what was found, what was expected, and the command that mends it; shown without a
    traceback.
    """


class NotFinite(FlowlitError):
    """A network gives numbers that are not finite."""


class Diverged(FlowlitError):
    """Training has gone wrong; ``Rollback`` goes back to where it had not."""


class Stopped(BaseException):
    """Training was told to stop by a signal, and everything is saved. ``code`` is what a process that it
    ended would return.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.code = 128 + signum
