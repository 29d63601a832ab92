"""A new idea is one file and one YAML: everything here lives in a folder that flowlit has never heard of."""

import importlib
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from commandline import REPOSITORY, in_process

from flowlit import load
from flowlit.couplings import SeededNoise
from flowlit.data import Digits
from flowlit.metrics.frechet import frechet_distance

IDEAS = '''
import torch
from torch import nn
from torch.utils.data import Dataset

from flowlit.types import Coupling, ImageDataset, Objective, Pair, Solution, Solver


class Plane(nn.Module):
    """A network: just a module that is called as (x, t, cond)."""

    def __init__(self, depth: int = 1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(depth)))

    def forward(self, x, t, cond={}):
        shift = cond["brightness"][:, None, None, None] if "brightness" in cond else 0
        return self.layers(x) + shift


class Bars(ImageDataset):
    """A data set with a condition that flowlit does not know."""

    def __init__(self, count: int = 40):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.zeros(1, 8, 8, dtype=torch.uint8)
        image[:, :, index % 8] = 255
        return {"x1": image, "cond": {"brightness": torch.tensor(index / self.count)}}

    @property
    def fingerprint(self):
        return f"bars {self.count}"


class Absolute(Objective):
    """An objective, which logs a part of its own and looks at the module that it is attached to."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("attached", torch.zeros(()))

    def forward(self, velocity, pair):
        assert "brightness" in pair.cond and len(pair.cond["brightness"]) == len(pair.x1)
        error = (velocity(pair.x0, torch.zeros(len(pair.x0)), pair.cond) - (pair.x1 - pair.x0)).abs().mean()
        return {"loss": self.scale * error, "unscaled": error}

    def on_attach(self, module):
        self.attached += 1


class Mirrored(Coupling):
    """A coupling: each image with its own negative plus noise."""

    def __init__(self, images: ImageDataset):
        self.images = images

    def dataset(self) -> Dataset:
        return self.images

    def complete(self, batch, device):
        x1 = batch["x1"].float() / 127.5 - 1
        return Pair(-x1 + torch.randn_like(x1), x1, batch["cond"])


class Leap(Solver):
    """A solver: one step with the mean of both ends."""

    def __init__(self, share: float = 0.5):
        self.share = share

    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        v0 = velocity(x0, torch.zeros(len(x0)), cond)
        v1 = velocity(x0 + v0, torch.ones(len(x0)), cond)
        return Solution(x0 + (1 - self.share) * v0 + self.share * v1, torch.full((len(x0),), 2))
'''


@pytest.fixture
def idea(tmp_path):
    """The folder of someone who extends flowlit: one Python file, one YAML."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "ideas.py").write_text(IDEAS)
    content = tiny.fit(
        tmp_path / "run",
        network={"class_path": "ideas.Plane", "init_args": {"depth": 2}},
        coupling={"class_path": "ideas.Mirrored", "init_args": {"images": {"class_path": "ideas.Bars"}}},
        callbacks=[tiny.EMA, {"class_path": "flowlit.callbacks.Samples"}, tiny.checkpoints()],
        limit_val_batches=1,
        check_val_every_n_epoch=1,
    )
    model = content["model"]["init_args"]
    model["objective"] = {"class_path": "ideas.Absolute", "init_args": {"scale": 2.0}}
    model["solvers"] = {"leap": {"class_path": "ideas.Leap"}}
    tiny.write(folder / "idea.yaml", content)
    return folder


@pytest.mark.journey
def test_new_classes_train_from_a_yaml_alone(idea, tmp_path, flowlit, monkeypatch):
    outcome = flowlit("fit", "-c", "idea.yaml", "--model.objective.scale", 3, cwd=idea, PYTHONPATH=str(idea))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run/samples/leap.png").exists()
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["model"]["init_args"]["objective"] == {
        "class_path": "ideas.Absolute",
        "init_args": {"scale": 3.0},
    }

    monkeypatch.syspath_prepend(str(idea))
    import flowlit as library

    last = tmp_path / "run/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["state_dict"]["objective.attached"] == 1
    generator = library.load(str(last))
    assert (type(generator.network).__name__, type(generator.solver).__name__) == ("Plane", "Leap")
    assert generator(torch.randn(3, 1, 8, 8)).shape == (3, 1, 8, 8)


def test_one_new_class_is_an_override_away(idea, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(idea))
    config = tiny.write(tmp_path / "plain.yaml", tiny.fit(tmp_path / "plain"))
    outcome = in_process("fit", "-c", config, "--model.network", "ideas.Plane", "--model.network.depth", 3)
    assert outcome.code == 0, outcome.err
    assert "network.layers.2.weight" in tiny.weights(tmp_path / "plain/checkpoints/last.ckpt")


def test_the_example_of_the_guide_works(tmp_path, monkeypatch):
    """docs/extending.md shows a whole file and the command that uses it; it trains past the first logs."""
    guide = (REPOSITORY / "docs/extending.md").read_text()
    file = re.search(r"`(my_\w+\.py)`", guide).group(1)
    (tmp_path / file).write_text(re.search(r"```python\n(.*?)```", guide, re.S).group(1))
    words = re.search(r"```bash\nPYTHONPATH=\. flowlit (.*)\n", guide).group(1).split()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    short = ["--trainer.max_steps", 24, "--trainer.val_check_interval", 12, "--model.network.width", 8]
    outcome = in_process(
        *words,
        *short,
        "--trainer.log_every_n_steps",
        5,
        "--data.noise.num",
        16,
        "--vars.root",
        tmp_path / "run",
    )
    assert outcome.code == 0, outcome.err
    assert list(Path(tmp_path / "run").glob("**/last.ckpt"))


SEEN = """
import torch
from torch import nn


class Seen(nn.Module):
    \"\"\"A network with named layers: of images (B, 1, 8, 8), untrained, always the same.\"\"\"

    def __init__(self, width: int = 6):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.edges = nn.Conv2d(1, width, 3, padding=1)
            self.shapes = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.shapes(torch.relu(self.edges(x)))
"""


def test_one_network_serves_as_feature_extractor_and_as_distance(tmp_path, monkeypatch):
    """Written once, named twice in a YAML: a student is distilled by it, and measured in its features."""
    (tmp_path / "seen.py").write_text(SEEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = {"class_path": "seen.Seen", "init_args": {"width": 4}}
    layers = {"network": network, "layers": ["edges", "shapes"], "weights": [1.0, 0.5]}
    distance = {"class_path": "flowlit.objectives.distances.FeatureDistance", "init_args": layers}
    features = {"network": network, "layer": "shapes", "name": "seen"}
    fid = {
        "features": {"class_path": "flowlit.metrics.NetworkFeatures", "init_args": features},
        "reference": {"class_path": "flowlit.data.Digits", "init_args": {"limit": 50}},
        "cache": str(tmp_path / "cache"),
    }
    callbacks = [
        tiny.checkpoints(),
        {"class_path": "flowlit.callbacks.FID", "init_args": fid},
        {"class_path": "flowlit.callbacks.Report"},
    ]
    content = tiny.fit(
        tmp_path / "run",
        "OneStepStudent",
        callbacks=callbacks,
        data={"noise": tiny.noise(30)},
        limit_val_batches=1.0,
        val_check_interval=4,
        check_val_every_n_epoch=None,
    )
    objective = {"class_path": "flowlit.objectives.Distillation", "init_args": {"distance": distance}}
    content["model"]["init_args"]["objective"] = objective
    config = tiny.write(tmp_path / "seen.yaml", content)
    last = tmp_path / "run/checkpoints/last.ckpt"
    for words in (("fit", "-c", config), ("validate", "-c", config, "--ckpt_path", last)):
        outcome = in_process(*words)
        assert outcome.code == 0, outcome.err

    report = json.loads((tmp_path / "run/metrics.json").read_text())
    generator = load(str(last), weights="raw")
    noise = SeededNoise(tiny.SHAPE, 30)
    with torch.no_grad():
        images = generator(torch.stack([noise[i].x0 for i in range(30)]))
    real = torch.stack([image["x1"] for image in Digits(limit=50)])
    network = importlib.import_module("seen").Seen(4)

    def gaussian(images):
        with torch.no_grad():
            x = network(images.float() / 127.5 - 1).mean((2, 3)).double()
        return x.mean(0), x.T.cov()

    expected = frechet_distance(*gaussian(images), *gaussian(real))
    assert report["metrics"]["frechet_seen/euler2"] == pytest.approx(expected, rel=1e-4)
    assert not [name for name in tiny.weights(last) if "edges" in name], "frozen networks are not saved"
