"""The examples run as they stand, and do what their comments say."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch

import flowlit

IN_PYTHON = Path(__file__).parents[1] / "examples" / "python.py"
ONE_FILE = Path(__file__).parents[1] / "examples" / "one_file.py"


@pytest.fixture(scope="module")
def distances():
    spec = importlib.util.spec_from_file_location("one_file", ONE_FILE)
    one_file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(one_file)
    return one_file.main()


def test_one_step_after_reflow_is_nearly_as_good_as_fifty_before(distances):
    before, many = distances["flow, 1 step"], distances["flow, 50 steps"]
    assert distances["reflow, 1 step"] < 0.05 * before and many < 0.05 * before
    assert distances["distilled, 1 step"] < distances["reflow, 1 step"] < 2 * many
    assert abs(distances["other data"]) < 0.2 * many


def test_the_numbers_in_the_comments_are_those_of_the_run(distances):
    commented = re.findall(r"^#   (.+?)  +(\d\.\d{4})$", ONE_FILE.read_text(), re.M)
    assert [name for name, _ in commented] == list(distances)
    for name, number in commented:
        assert distances[name] == pytest.approx(float(number), rel=0.3, abs=0.003)


def test_it_is_one_short_file_without_a_framework():
    text = ONE_FILE.read_text()
    modules = {name.split(".")[0] for name in re.findall(r"^(?:from|import) ([\w.]+)", text, re.M)}
    assert modules == {"__future__", "copy", "math", "collections", "torch"}
    assert len(text.splitlines()) <= 120


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        variables = runpy.run_path(str(IN_PYTHON))
        again = flowlit.load("digits.safetensors")
        yield {**variables, "again": again, "files": {path.name for path in Path().iterdir()}}


@pytest.mark.slow
def test_a_loop_of_ones_own_draws_digits_of_the_class_that_is_wished(cells):
    images = cells["generator"].sample(200, seed=3)
    distances = torch.cdist(images.flatten(1).float(), cells["images"].flatten(1).float())
    nearest = cells["labels"][distances.topk(5, largest=False).indices].mode(1).values
    assert (nearest == torch.arange(200) % 10).float().mean() > 0.8
    assert len(set(map(bytes, images.flatten(1).numpy()))) == 200


@pytest.mark.slow
def test_it_leaves_a_file_and_two_pictures(cells):
    assert cells["files"] == {"digits.safetensors", "digits.png", "between.png"}
    assert cells["picture"].size == (651, 651) and cells["between"].size == (17 * 65 + 1, 66)
    assert torch.equal(cells["again"].sample(seeds=[1, 2, 3], labels="7"), cells["sevens"])
    trained = flowlit.Generator(cells["network"], cells["generator"].solver, cells["codec"])
    assert torch.equal(trained.sample(seeds=[1, 2, 3], labels="7"), cells["sevens"])


@pytest.mark.slow
def test_noise_that_follows_the_gradient_is_brighter(cells):
    assert cells["brighter"] > (cells["brightness"] + 1) / 2 + 0.01
