"""What forks of ``forks.py`` find imported."""

import commandline  # noqa: F401
import tiny  # noqa: F401

import flowlit.commands.lightning
import flowlit.commands.pipeline.recipe  # noqa: F401
