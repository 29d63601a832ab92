"""What forks of ``forks.py`` find imported."""

import conftest  # noqa: F401
import tiny  # noqa: F401

import flowlit.lightning_cli
import flowlit.pipeline  # noqa: F401
