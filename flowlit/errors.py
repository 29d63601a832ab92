"""The one exception that is meant for users."""


class FlowlitError(Exception):
    """Tell a user what was found, what was expected, and the command that mends it; shown without a traceback."""
