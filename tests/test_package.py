"""What a user sees of flowlit at a Python prompt."""

import importlib
import subprocess
import sys

import flowlit


def test_dir_shows_what_there_is_and_all_of_it_can_be_had():
    names = dir(flowlit)
    assert {"load", "Generator", "solvers", "networks", "types"} <= set(names)
    for name in names:
        assert getattr(flowlit, name, None) or importlib.import_module(f"flowlit.{name}")


def test_dir_and_import_are_instant():
    code = "import flowlit, sys; dir(flowlit); assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
