"""The exceptions that are meant for users."""


class FlowlitError(Exception):
    """Tell a user what was found, what was expected, and the command that mends it; shown without a traceback."""


class NotFinite(FlowlitError):
    """A network gives numbers that are not finite."""


class Diverged(FlowlitError):
    """Training has gone wrong; ``Rollback`` goes back to where it had not."""
