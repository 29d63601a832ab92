"""Errors for users: one clear sentence each."""

from __future__ import annotations

import signal


class FlowlitError(Exception):
    """Error that a user can mend: what was found, what was expected, and the command that mends it.

    Shown without a traceback.
    """


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
