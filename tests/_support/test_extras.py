"""Packages of extras: one error that names the extra, and none of them where nothing needs it."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowlit._support.extras import EXTRAS, needed
from flowlit.errors import FlowlitError

SETUP = Path(__file__).parents[2] / "setup.cfg"


@pytest.mark.parametrize("package", EXTRAS)
def test_a_package_that_is_absent_is_named_with_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        FlowlitError, match=rf"^{package} cannot be imported .*; pip install 'flowlit\[{EXTRAS[package]}\]'$"
    ):
        needed(f"{package}.part")


def test_the_extras_that_errors_name_bring_their_packages():
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    extras = setup["options.extras_require"]
    for package, extra in EXTRAS.items():
        listed = {re.split("[<>=]", line)[0].removesuffix("_torch") for line in extras[extra].split()}
        assert package in listed, (package, extra)
        assert set(extras[extra].split()) <= set(extras["dev"].split()), "tests need it"


def test_no_extra_is_imported_before_it_is_used():
    code = (
        "import sys, flowlit, flowlit.networks, flowlit.data, flowlit.generators, flowlit.couplings\n"
        "print(*sys.modules)\n"
        "import flowlit.modules, flowlit.callbacks, flowlit.commands.lightning\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    library, lightning = (set(line.split()) for line in run.stdout.splitlines())
    assert not set(EXTRAS) & library
    assert not (set(EXTRAS) - {"transformers"}) & lightning  # torchmetrics imports that where it is installed
