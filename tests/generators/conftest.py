import logging

import pytest


@pytest.fixture(scope="module")
def untraced():
    """PyTorch writes whole graphs as text where its trace is listened to, as pytest does."""
    log = logging.getLogger("torch.__trace")
    log.disabled = True
    yield
    log.disabled = False
