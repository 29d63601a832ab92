"""What a user sees of flowlit at a Python prompt."""

import importlib
import pydoc
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


def test_help_shows_packages_and_what_they_are_for():
    text = pydoc.render_doc(flowlit, renderer=pydoc.plaintext)
    for words in ("class Generator", "load(checkpoint", "objectives (package)", "seeds=[1, 2, 3]"):
        assert words in text


def test_every_method_of_a_generator_has_a_summary_and_an_example_where_it_takes_arguments():
    for name, method in vars(flowlit.Generator).items():
        if not name.startswith("_"):
            lines = method.__doc__.splitlines()
            assert lines[0] and (">>>" in method.__doc__ or name in ("faster", "save")), name
