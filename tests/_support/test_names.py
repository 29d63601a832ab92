"""Public names of classes, and names of before."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import tiny
from torch import nn

import flowlit
from flowlit._support.names import MOVED, RENAMED, current, in_current_names, public_path, resolve
from flowlit.callbacks import CUDAGraphs
from flowlit.networks import UNet, pretrained
from flowlit.networks.checkpoints.spec import build
from flowlit.networks.unet_base import UNetBase
from flowlit.objectives.times import Uniform
from flowlit.paths import VE
from flowlit.solvers import RK45, Adams

BEFORE = {
    "flowlit.averages.PowerLaw": "flowlit.schedules.averages.PowerLaw",
    "flowlit.codecs.Pixels": "flowlit.data.Pixels",
    "flowlit.datamodule.FlowDataModule": "flowlit.modules.FlowDataModule",
    "flowlit.diffusions.DiscreteVP": "flowlit.paths.DiscreteVP",
    "flowlit.distances.PseudoHuber": "flowlit.objectives.distances.PseudoHuber",
    "flowlit.features.ClassifierFeatures": "flowlit.metrics.ClassifierFeatures",
    "flowlit.features.Inception": "flowlit.metrics.Inception",
    "flowlit.images.ImageZip": "flowlit.data.ImageZip",
    "flowlit.images.Digits": "flowlit.data.Digits",
    "flowlit.metrics.fidelity.KID": "flowlit.metrics.KID",
    "flowlit.multistep.Adams": "flowlit.solvers.Adams",
    "flowlit.times.LogitNormal": "flowlit.objectives.times.LogitNormal",
    "flowlit.weights.SNR": "flowlit.objectives.weights.SNR",
    "flowlit.callbacks.Graphs": "flowlit.callbacks.CUDAGraphs",
    "flowlit.callbacks.Neighbours": "flowlit.callbacks.NearestNeighbours",
    "flowlit.callbacks.Recompute": "flowlit.callbacks.ActivationCheckpointing",
    "flowlit.networks.edm.EDM": "flowlit.networks.EDM",
    "flowlit.networks.layers.Norm": "flowlit.networks.norm.Norm",
}


@pytest.mark.parametrize(
    "thing",
    [RK45, Adams, UNet, Uniform, CUDAGraphs, UNetBase, pretrained],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_public_path_leads_back(thing):
    path = public_path(thing)
    assert resolve(path) is thing
    assert current(path) == path


@pytest.mark.parametrize(
    ("thing", "path"),
    [
        (RK45, "flowlit.solvers.RK45"),
        (Uniform, "flowlit.objectives.times.Uniform"),
        (UNetBase, "flowlit.networks.unet_base.UNetBase"),
        (pretrained, "flowlit.networks.pretrained"),
        (tiny.Affine, "tiny.Affine"),
        (Path, "pathlib.Path"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_public_path_is_the_shortest(thing, path):
    assert public_path(thing) == path


@pytest.mark.parametrize(("before", "now"), BEFORE.items())
def test_names_of_before_are_found(before, now):
    assert current(before) == now
    assert resolve(before) is resolve(now)


@pytest.mark.parametrize("before", [name for name in BEFORE if "layers.Norm" not in name])
def test_names_of_before_are_attributes(before):
    """jsonargparse takes an attribute where a module cannot be imported."""
    place = flowlit
    for name in before.split(".")[1:]:
        place = getattr(place, name)
    assert place is resolve(before)


def test_every_name_of_the_tables_leads_somewhere():
    for places in MOVED.values():
        for place in places:
            import_module(f"flowlit.{place}")
    for path, now in RENAMED.items():
        package = path.rpartition(".")[0]
        assert getattr(import_module(f"flowlit.{package}"), now)


@pytest.mark.parametrize(
    "path", ["flowlit.no.Such", "flowlit.solvers.Such", "antigravity.geohash", "nothing"]
)
def test_what_has_no_name_stays_as_it_is(path):
    assert current(path) == path


def test_stored_names_import_nothing_of_others(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert current("stranger.Thing") == "stranger.Thing"


def test_plain_data_in_names_of_today():
    data = {
        "solver": {"class_path": "flowlit.multistep.Adams", "init_args": {"steps": 3}},
        "x": ["a.b", 1.5, None],
    }
    expected = {
        "solver": {"class_path": "flowlit.solvers.Adams", "init_args": {"steps": 3}},
        "x": ["a.b", 1.5, None],
    }
    assert in_current_names(data) == expected


def test_unknown_attributes_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        flowlit.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        flowlit.callbacks.Nothing  # noqa: B018


def test_old_names_are_written_in_one_place():
    names = [name for name in BEFORE if not name.startswith(("flowlit.networks", "flowlit.metrics"))]
    old = re.compile("|".join(re.escape(name) + r"\b" for name in names))
    root = Path(flowlit.__file__).parents[1]
    files = [
        *(root / "flowlit").rglob("*.py"),
        *(root / "experiments").rglob("*.yaml"),
        *(root / "docs").rglob("*.md"),
    ]
    assert [str(file) for file in files if file.name != "names.py" and old.search(file.read_text())] == []


def test_arguments_of_before_are_found_in_specs_and_in_identities():
    """VE's ``tells`` is now its ``conditioning``."""
    before = {"class_path": "flowlit.diffusions.VE", "init_args": {"sigma_max": 50.0, "tells": "time"}}
    now = {"class_path": "flowlit.paths.VE", "init_args": {"sigma_max": 50.0, "conditioning": "time"}}
    wrapped = {"class_path": "flowlit.networks.DiffusionVelocity", "init_args": {"predicts": "x0"}}
    network = {"network": tiny.unet(), "diffusion": before}
    described = {**wrapped, "init_args": {**wrapped["init_args"], **network}}
    assert in_current_names(described)["init_args"]["diffusion"] == now
    assert in_current_names({"class": "flowlit.diffusions.VE", "tells": "time"}) == {
        "class": "flowlit.paths.VE",
        "conditioning": "time",
    }
    assert build(described, nn.Module).diffusion == VE(sigma_max=50.0, conditioning="time")
    unrelated = {"class_path": "flowlit.paths.DiscreteVE", "init_args": {"tells": 1}}
    assert in_current_names(unrelated) == unrelated


def test_a_class_that_is_gone_becomes_none():
    gone = {"weight": {"class_path": "flowlit.weights.One", "init_args": {}}, "beta": 1.0}
    assert in_current_names(gone) == {"weight": None, "beta": 1.0}
