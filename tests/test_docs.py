"""The documentation site: what it names exists, and its pages of YAMLs and classes are complete."""

import importlib
import importlib.util
import re
import sys
from types import ModuleType

import pytest
import yaml
from commandline import REPOSITORY

from flowlit._support.names import public_path, resolve

PAGES = [*(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "README.md"]


@pytest.fixture(scope="module")
def hooks():
    """docs/site/hooks.py, also where MkDocs is not installed."""
    if importlib.util.find_spec("mkdocs") is None:
        files = ModuleType("mkdocs.structure.files")
        files.File = object
        sys.modules.setdefault("mkdocs.structure.files", files)
    specification = importlib.util.spec_from_file_location("hooks", REPOSITORY / "docs/site/hooks.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["hooks"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_every_noun_that_a_page_names_can_be_imported(page):
    if page.parent.name == "adr":
        pytest.skip("records of decisions name what was there then")
    nouns = set(re.findall(r"\b(flowlit(?:\.\w+)+)", page.read_text()))
    for noun in nouns:
        if importlib.util.find_spec(noun.split(".")[0]) and not _is_module(noun):
            resolve(noun)


def _is_module(noun):
    try:
        return importlib.util.find_spec(noun) is not None
    except ModuleNotFoundError:
        return False


def test_the_reference_has_every_public_class_under_its_public_name(hooks):
    for module in hooks.PAGES:
        for name, thing in hooks.public(importlib.import_module(module)):
            assert f"heading: {module}.{name}," in hooks.reference(module)
            assert resolve(f"{module}.{name}") is thing
            assert public_path(thing).startswith("flowlit.")


def test_every_page_of_the_menu_exists(hooks):
    menu = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    made = {"index.md", "reference/index.md"}
    listed = {page for section in menu for pages in section.values() for page in _leaves(pages)}
    assert all(page in made or (REPOSITORY / "docs" / page).is_file() for page in listed)


def _leaves(pages):
    if isinstance(pages, str):
        return [pages]
    return [leaf for page in pages for leaf in _leaves(page if isinstance(page, str) else [*page.values()])]


def test_links_out_of_docs_lead_to_files(hooks):
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
