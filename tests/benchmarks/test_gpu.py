"""benchmarks/gpu.sh, rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml
from arena import labelled_images, random_features
from commandline import REPOSITORY

import flowlit


def script(out, *sections, **environment):
    sizes = {"DEVICE": "cpu", "QUICK": "1", "OUT": str(out), "PYTHON": sys.executable}
    return subprocess.run(
        [str(REPOSITORY / "benchmarks/gpu.sh"), *sections],
        env={**os.environ, **sizes, **environment},
        capture_output=True,
        text=True,
    )


def recipes(folder):
    """The arena's, with features that need no package."""
    layer, layers = random_features(folder), "experiments/arena/layers"
    evaluations = {
        "arena_teacher": {"evaluate_teacher": f"{layers}/many_steps.yaml"},
        "arena": {"evaluate_reflow": f"{layers}/few_steps.yaml", "evaluate_distill": None},
    }
    for name, stages in evaluations.items():
        content = {"include": f"experiments/recipes/{name}.yaml", "stages": {}}
        for stage, more in stages.items():
            configs = ["experiments/arena/evaluate.yaml", *([more] if more else []), layer]
            content["stages"][stage] = {"config": configs}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return str(folder)


def test_what_cannot_run_is_said_before_anything_does(tmp_path):
    wrong = script(tmp_path, "tests", "train-all")
    assert wrong.returncode == 2 and "train-all is none of tests, figures, train" in wrong.stdout
    nothing = script(tmp_path, "train")
    assert nothing.returncode == 2 and "train needs images; IMAGES=" in nothing.stdout
    late = script(tmp_path, "tests", MINUTES="0")
    assert late.returncode == 124 and "time is up" in late.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.timeout(900)
def test_tests_and_training_are_brought_out(tmp_path):
    labelled_images(tmp_path / "train-0.zip")
    settings = {"IMAGES": str(tmp_path / "train-*.zip"), "RECIPES": recipes(tmp_path)}
    out = tmp_path / "out"
    done = script(out, "tests", "train", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    suite = ElementTree.parse(out / "tests_cpu.xml").getroot().find("testsuite")
    assert int(suite.get("tests")) > 10 and suite.get("failures") == suite.get("errors") == "0"
    for name in ("teacher", "slimflow"):
        assert flowlit.load(out / f"{name}.safetensors").sample(2).shape == (2, 3, 32, 32)
        assert json.loads((out / f"{name}.json").read_text()) and (out / f"{name}.png").is_file()
    whole = (out / "teacher.safetensors").read_bytes()
    again = script(out, "train", PIECE="100000", **settings)
    assert again.returncode == 0 and again.stdout.count(" done ") == 9, again.stdout + again.stderr
    pieces = [piece.read_bytes() for piece in sorted(out.glob("teacher.safetensors.part-*"))]
    assert "join them: cat teacher.safetensors.part-* > teacher.safetensors" in again.stdout
    assert len(pieces) > 1 and max(map(len, pieces)) <= 100_000 and b"".join(pieces) == whole
