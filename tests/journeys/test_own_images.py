"""A stranger's folder of pictures, through the whole recipe."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from commandline import REPOSITORY, in_process
from PIL import Image

from examples import shapes
from flowlit.commands.pipeline import recipe as pipeline

RECIPE = "experiments/recipes/own_images.yaml"
STAGES = [
    *("images", "features", "teacher", "couple", "reflow", "recouple", "distill"),
    *("evaluate_teacher", "evaluate_reflow", "evaluate_distill"),
]


def words(images, root):
    options = {
        "vars.images": images,
        "vars.resolution": 8,
        "features.trainer.max_steps": 2,
        "features.data.batch_size": 8,
        "teacher.vars.teacher_steps": 2,
        "couple.vars.pairs": 40,
        "reflow.vars.reflow_steps": 2,
        "recouple.vars.pairs": 40,
        "distill.vars.distill_steps": 2,
        **{f"evaluate_{name}.vars.num": 64 for name in ("teacher", "reflow", "distill")},
    }
    typed = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["pipeline", "-c", RECIPE, "--root", root, *typed]


@pytest.fixture
def started(monkeypatch):
    """Run each stage in this process; the names of the folders that they write into."""
    names = []

    def run(command, env):
        outcome = in_process(*command[3:])
        names.append(" ".join(command[3:]))
        if outcome.code:
            print(outcome.err, file=sys.stderr)
        return outcome.code

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(pipeline, "run_child", run)
    return names


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.parametrize(
    ("classes", "modes", "shape"),
    [(True, shapes.MODES, [3, 8, 8]), (False, ("L",), [1, 8, 8])],
    ids=["mixed pictures in folders of classes", "grey pictures in one folder"],
)
def test_a_folder_becomes_a_generator_in_one_command(tmp_path, started, classes, modes, shape):
    images = shapes.into_folder(tmp_path / "my images", 60, classes, modes)
    outcome = in_process(*words(images, tmp_path / "root"))
    assert outcome.code == 0, outcome.err
    assert len(started) == len(STAGES)
    rows = json.loads((tmp_path / "root/summary.json").read_text())
    assert rows[-1]["model"] == "distilled student, one step" and rows[-1]["nfe"] == 1
    assert Image.open(tmp_path / "root/samples.png").width > 100

    import flowlit

    generator = flowlit.load(tmp_path / "root/distill/checkpoints/last.ckpt")
    assert list(generator.sample(2).shape[1:]) == shape
    assert generator.class_names == (shapes.KINDS if classes else None)

    started.clear()
    assert in_process(*words(images, tmp_path / "root")).code == 0 and not started
    new = images / "circle" if classes else images
    shapes.into_folder(tmp_path / "more", 3, False, modes)
    next((tmp_path / "more").glob("circle*")).rename(new / f"one more{'.png' if classes else '.jpg'}")
    plan = in_process(*words(images, tmp_path / "root"), "--dry-run").out
    lines = [line for line in plan.splitlines() if line.split()[0] in STAGES]
    assert all(line.split()[1] == "run" for line in lines) and len(lines) == len(STAGES)
    assert "60 files → 61 files" in lines[0]


@pytest.fixture
def installed(tmp_path):
    """Run a command of an environment that has flowlit's wheel, and from here only what flowlit needs."""
    source = tmp_path / "source"
    for name in ("flowlit", "experiments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    wheels = ["wheel", *alone, "--no-build-isolation", "--wheel-dir", tmp_path / "wheels", source]
    subprocess.run([*pip, *wheels], check=True)
    shutil.rmtree(source)
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    [wheel] = (tmp_path / "wheels").glob("flowlit-*.whl")
    subprocess.run([*pip, "--python", place / "bin/python", "install", *alone, wheel], check=True)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(folder: Path, command: str, *words):
        outcome = subprocess.run(
            [place / "bin" / command, *map(str, words)],
            cwd=folder,
            env=environment,
            text=True,
            capture_output=True,
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    return run


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.timeout(900)
def test_the_wheel_in_an_empty_environment_runs_the_recipe(tmp_path, installed):
    where = "import flowlit, sys; print(flowlit.__file__); sys.exit('flowlit.commands' in sys.modules)"
    assert str(tmp_path / "environment") in installed(tmp_path, "python", "-c", where)
    installed(tmp_path, "flowlit", "init", "p", "--recipe", "own_images")
    project = tmp_path / "p"
    shapes.into_folder(project / "my_images", 60)
    installed(project, "flowlit", *words("my_images", "runs/own_images"))
    rows = json.loads((project / "runs/own_images/summary.json").read_text())
    assert rows[-1]["model"] == "distilled student, one step" and rows[-1]["nfe"] == 1
    draw = "import flowlit; flowlit.load('runs/own_images/distill').grid(4).save('four.png')"
    installed(project, "python", "-c", draw)
    assert Image.open(project / "four.png").width > 100
