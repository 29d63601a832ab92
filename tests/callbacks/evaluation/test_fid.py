"""Evaluation as a whole: a number comes with its protocol, and does not depend on how it was computed."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from commandline import in_process
from evaluations import MEASURES, REAL, Count, classifier, fid, flow, run, small_files  # noqa: F401
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matrix import few
from PIL import Image
from safetensors.torch import load_file
from tools import LinearField, Mean, inception_weights, tiny_unet

from flowlit._support.files import file_hash
from flowlit.callbacks import EMA, Dashboard, Report, Samples
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.metrics import (
    KID,
    ClassifierFeatures,
    FirstAvailable,
    FrechetExtrapolated,
    InceptionScore,
    OwnFeatures,
)
from flowlit.metrics.base import FeatureBatch
from flowlit.metrics.feature_cache import FeatureCache
from flowlit.metrics.frechet import frechet_distance
from flowlit.metrics.reference import make_reference
from flowlit.modules import FlowDataModule, FlowModule, Teacher
from flowlit.networks import fingerprint, pretrained
from flowlit.objectives import MomentMatching, RectifiedFlow
from flowlit.solvers import RK45, Euler, Heun


def stored(root):
    """Every tensor of the only bank, in the order of indices, read without our reader."""
    (folder,) = (path for path in (Path(root) / "features").iterdir() if path.is_dir())
    files = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    whole = {name: torch.cat([file[name] for file in files]) for name in files[0]}
    order = whole["index"].argsort()
    return {name: tensor[order] for name, tensor in whole.items()}


def numbers(report):
    return report["metrics"], report["spread"]


# batches and ranks
# leave no trace


@pytest.mark.parametrize("classes", few([0, 10], 1), ids=["no labels", "labels"])
def test_features_and_numbers_do_not_depend_on_batches_and_ranks(tmp_path, fid, classes):
    ways = {"7": {"batch": 7}, "64": {"batch": 64}, "two": {"batch": 7, "devices": 2, "strategy": "ddp_fork"}}
    reports = {
        name: run(tmp_path / name, fid(), num=70, classes=classes, **way) for name, way in ways.items()
    }
    banks = {name: stored(tmp_path / name) for name in ways}
    assert banks["64"]["index"].tolist() == list(range(70)) and banks["64"]["rk45.features"].std(0).min() > 0
    assert tiny.same(banks["64"], banks["7"]) and tiny.same(banks["64"], banks["two"])
    assert numbers(reports["64"]) == numbers(reports["7"]) == numbers(reports["two"])
    assert len(numbers(reports["64"])[0]) == 2 * 7
    assert [report["hardware"]["devices"] for report in reports.values()] == [1, 1, 2]


@pytest.mark.parametrize("classes", few([10, 0], 1), ids=["labels", "no labels"])
def test_numbers_are_those_of_the_images_measured_the_slow_way(tmp_path, fid, classes, classifier):
    """Images one by one, without lightning, banks and blocks; labels are the index modulo ten."""
    report = run(tmp_path, fid(), num=70, classes=classes)
    extractor, module = ClassifierFeatures(classifier, "tiny"), flow(classes=classes).eval()
    noise = SeededNoise(tiny.SHAPE, 70)
    real = extractor.extract(torch.stack([REAL[i]["x1"] for i in range(90)]))
    for name, solver in module.solvers.items():
        images = []
        for i in range(70):
            cond = {"label": torch.tensor([i % 10])} if classes else {}
            with torch.no_grad():
                images.append(
                    (solver(module.network, noise[i].x0[None], cond).x1 * 127.5 + 127.5)
                    .round()
                    .clamp(0, 255)
                    .byte()
                )
        made = extractor.extract(torch.cat(images))

        def gaussian(features):
            x = features.double().numpy()
            return torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))

        expected = {"frechet_tiny": frechet_distance(*gaussian(made.features), *gaussian(real.features))}
        expected["frechet_tiny_half"] = frechet_distance(
            *gaussian(made.features[:35]), *gaussian(real.features)
        )
        for measure, tag in zip(MEASURES, ("kernel_distance", "classifier_score", None), strict=True):
            for key, estimate in measure(FeatureBatch(made.features, made.logits), real.features).items():
                expected[f"{tag or key}_tiny"] = estimate.value
        for tag, value in expected.items():
            tolerance = (
                0.03 if tag.startswith(("precision", "recall")) else 1e-9
            )  # counts: one image more or less
            assert report["metrics"][f"{tag}/{name}"] == pytest.approx(value, rel=2e-3, abs=tolerance), tag


def configured(root, classifier, network=None, measures=True, **data):
    """The same for the command line."""
    extractor = {
        "class_path": "flowlit.metrics.ClassifierFeatures",
        "init_args": {"checkpoint": classifier, "name": "tiny"},
    }
    reference = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 90}}
    kid = [{"class_path": "flowlit.metrics.KID", "init_args": {"subsets": 3, "subset_size": 20}}]
    fid = {
        "features": extractor,
        "reference": reference,
        "cache": str(root.parent / "cache"),
        "measures": kid if measures else [],
    }
    callbacks = [
        {"class_path": "flowlit.callbacks.FID", "init_args": fid},
        {"class_path": "flowlit.callbacks.Report"},
    ]
    content = tiny.fit(root, "Teacher", network, callbacks=callbacks, data={"noise": tiny.noise(40), **data})
    del content["trainer"]["limit_val_batches"]
    return {**content, "untrained": network is None}


@pytest.mark.slow
@pytest.mark.journey
def test_two_processes_of_the_command_line_measure_what_one_does(tmp_path, classifier, flowlit):
    paths = {
        n: tiny.write(tmp_path / f"{n}.yaml", configured(tmp_path / n, classifier)) for n in ("one", "two")
    }
    one = in_process("validate", "-c", paths["one"])
    assert one.code == 0, one.err
    words = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.noise_batch_size", 7]
    two = flowlit("validate", "-c", paths["two"], *words, cwd=tmp_path)
    assert two.code == 0, two.err
    assert tiny.same(stored(tmp_path / "one"), stored(tmp_path / "two"))
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert numbers(a) == numbers(b) and (a["hardware"]["devices"], b["hardware"]["devices"]) == (1, 2)
    assert two.out.count("frechet_tiny") == 2, "one table, with the distance and that of the half"


def test_numbers_of_one_rank_are_drawn_as_bars_while_all_wait(tmp_path, fid):
    """The ranks without numbers went on alone, and all of them waited for ever, or for the wrong ones."""
    two = {"devices": 2, "strategy": "ddp_fork"}
    run(tmp_path, fid(measures=[]), Dashboard(), num=30, **two)
    assert len(list(tmp_path.rglob("evaluation.png"))) == 1


# killed
# and resumed


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stumble():
    raise KeyError("a hand that trips over a cable")


@pytest.mark.parametrize("how", few([die, stumble], 1), ids=["kill -9", "an error"])
def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path, fid, small_files, how):
    whole = run(tmp_path / "whole", fid(), num=60, batch=6)
    if how is stumble:
        with pytest.raises(KeyError):
            run(tmp_path / "parts", fid(), Count(6, how), num=60, batch=6)
    else:
        child = os.fork()
        if child == 0:
            try:
                run(tmp_path / "parts", fid(), Count(6, how), num=60, batch=6)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "parts/metrics.json").exists()
    before = set(stored(tmp_path / "parts")["index"].tolist())
    assert 24 <= len(before) < 60
    count = Count()
    parts = run(tmp_path / "parts", fid(), count, num=60, batch=6)
    assert sorted(count.indices) == sorted({*range(6), *range(60)} - (before - set(range(6))))
    assert tiny.same(stored(tmp_path / "whole"), stored(tmp_path / "parts")) and numbers(whole) == numbers(
        parts
    )
    assert parts["features"]["tiny"]["kept"] == len(before)
    assert not list((tmp_path / "parts/features").rglob(".*"))


@pytest.mark.slow
def test_another_number_of_ranks_may_go_on(tmp_path, fid, small_files):
    whole = run(tmp_path / "whole", fid(), num=60, batch=6)
    with pytest.raises(KeyError):
        run(tmp_path / "parts", fid(), Count(5, stumble), num=60, batch=6)
    parts = run(tmp_path / "parts", fid(), num=60, batch=6, devices=2, strategy="ddp_fork")
    assert tiny.same(stored(tmp_path / "whole"), stored(tmp_path / "parts")) and numbers(whole) == numbers(
        parts
    )


def test_a_finished_run_is_measured_again_without_generating(tmp_path, fid):
    first, count = run(tmp_path, fid(measures=[]), num=40, batch=8), Count()
    second = run(tmp_path, fid(), count, num=40, batch=8)
    assert count.indices == list(range(8)), "the first batch, which pictures need"
    assert first["metrics"].items() <= second["metrics"].items() and len(second["metrics"]) > len(
        first["metrics"]
    )
    assert stored(tmp_path)["index"].tolist() == list(range(40))


def test_pictures_are_whole_where_nothing_else_is_generated_again(tmp_path, fid):
    run(tmp_path, fid(), Samples(20, 5), num=40, batch=4)
    before = (tmp_path / "samples/rk45.png").read_bytes()
    (tmp_path / "samples/rk45.png").unlink()
    run(tmp_path, fid(), Samples(20, 5), num=40, batch=4)
    assert (tmp_path / "samples/rk45.png").read_bytes() == before


@pytest.mark.slow
def test_more_images_continue_the_first_ones(tmp_path, fid):
    run(tmp_path / "a", fid(), num=40, batch=8)
    count = Count()
    grown = run(tmp_path / "a", fid(), count, num=56, batch=8)
    assert sorted(count.indices) == [*range(8), *range(40, 56)]
    assert numbers(grown) == numbers(run(tmp_path / "b", fid(), num=56, batch=8))
    fewer = run(tmp_path / "a", fid(), num=40, batch=8)
    assert numbers(fewer) == numbers(run(tmp_path / "c", fid(), num=40, batch=8)), (
        "and leave them as they were"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"module": lambda: flow(seed=2)},
        {"module": lambda: flow(solvers={"rk45": RK45(0.04, 0.05), "euler1": Euler(1)})},
        {"seed": 1},
        {"precision": "bf16-mixed"},
        {"classes": 10},
    ],
    ids=["weights", "solver", "seed", "precision", "labels"],
)
def test_what_would_give_other_images_does_not_reuse_them(tmp_path, fid, change):
    run(tmp_path, fid(), num=40)
    count, change = Count(), dict(change)
    if "module" in change:
        change["module"] = change["module"]()
    run(tmp_path, fid(), count, num=40, **change)
    assert count.indices == list(range(40))
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_other_features_of_the_same_images_are_made_anew(tmp_path, fid):
    run(tmp_path, fid(measures=[], features=Mean()), num=40)
    count = Count()
    run(tmp_path, fid(measures=[], features=Mean(2.0)), count, num=40)
    assert count.indices == list(range(40))


def test_a_damaged_file_is_made_again(tmp_path, fid, small_files):
    whole = run(tmp_path, fid(), num=40, batch=8)
    torn = next(iter((tmp_path / "features").rglob("00000016-*.safetensors")))
    torn.write_bytes(torn.read_bytes()[:100])
    count = Count()
    assert numbers(run(tmp_path, fid(), count, num=40, batch=8)) == numbers(whole)
    assert count.indices == [*range(8), *range(16, 24)]


# commands


def test_test_measures_its_own_number_beside_validation(tmp_path, fid):
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 30), noise_batch_size=10, test_num=50)
    regular = run(tmp_path, fid(), data=data)
    before, count = (tmp_path / "metrics.json").read_bytes(), Count()
    published = run(tmp_path, fid(), count, command="test", data=data)
    assert (regular["command"], regular["images"]) == ("validate", 30)
    assert (published["command"], published["images"]) == ("test", 50) and published["features"]["tiny"][
        "images"
    ] == 50
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert count.indices == [*range(10), *range(30, 50)], "the same noise, continued"
    assert (
        published["metrics"].keys() == regular["metrics"].keys()
        and published["metrics"] != regular["metrics"]
    )


def test_fifty_thousand_images_are_published_by_default():
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 30, seed=5, num_classes=10))
    data.trainer = SimpleNamespace(world_size=2, global_rank=1)
    loader = data.test_dataloader()
    assert len(loader.dataset) == 50_000 and len(loader.sampler) == 25_000 and loader.dataset.seed == 5
    last = loader.dataset[49_999]
    assert last.index == 49_999 and last.cond["label"] == 9
    assert len(data.val_dataloader().dataset) == 30


def test_two_extractors_look_at_the_same_images(tmp_path, fid):
    both = run(tmp_path / "both", fid(), fid(measures=[], features=Mean()), num=40)
    for name, alone in (
        ("tiny", run(tmp_path / "a", fid(), num=40)),
        ("mean", run(tmp_path / "b", fid(measures=[], features=Mean()))),
    ):
        own = {tag: value for tag, value in both["metrics"].items() if name in tag}
        assert own and own == {tag: value for tag, value in alone["metrics"].items() if name in tag}
        assert both["features"][name]["sha256"] == alone["features"][name]["sha256"]
        assert both["features"][name]["reference"]["sha256"] == alone["features"][name]["reference"]["sha256"]
    assert both["features"].keys() == {"tiny", "mean"}


def test_an_extractor_that_comes_later_has_all_images_made_for_it(tmp_path, fid):
    run(tmp_path, fid(), num=40, batch=8)
    count = Count()
    both = run(tmp_path, fid(), fid(measures=[], features=Mean()), count, num=40, batch=8)
    assert count.indices == list(range(40))
    assert both["features"]["tiny"]["kept"] == 40 and both["features"]["mean"]["kept"] == 0
    assert FeatureCache(next((tmp_path / "features").glob("tiny-*"))).stored().tolist() == list(range(40))


def test_two_of_the_same_name_are_refused(tmp_path, fid):
    with pytest.raises((FlowlitError, RuntimeError), match="tiny"):
        run(tmp_path, fid(), fid(reference=Digits(limit=50)), num=40)


@pytest.mark.parametrize("how", [None, stumble], ids=["finished", "broken off"])
def test_without_a_logger_nothing_is_left_on_the_disk(tmp_path, fid, monkeypatch, how):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "here")
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 40), noise_batch_size=8)
    if how is None:
        trainer = run(tmp_path / "here", fid(), data=data, logger=False)
        assert trainer.callback_metrics["frechet_tiny/rk45"] > 0
    else:
        with pytest.raises(KeyError):
            run(tmp_path / "here", fid(), Count(2, stumble), data=data, logger=False)
    assert not list((tmp_path / "tmp").iterdir()) and not list((tmp_path / "here").rglob("*.*"))
    assert list(data.val_dataloader().sampler) == list(range(40)), "the next run on this data generates all"


# warnings
# and refusals


def warned(call, text):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if text in str(w.message)]


def test_images_that_a_limit_kept_back_are_told(tmp_path, fid):
    told = warned(
        lambda: run(tmp_path, fid(measures=[]), num=40, batch=8, limit_val_batches=2), "were measured"
    )
    assert told == ["16 of 40 images were measured; limit_*_batches kept the others back"]
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["features"]["tiny"]["images"] == 16


def test_too_few_images_for_a_covariance_are_told_with_the_number(tmp_path, fid):
    text = (
        "8 generated images for 8 features: their Fréchet distance is far too large, and compares only with "
        "those of exactly as many images; measure KID, which does not depend on their number, or "
        "FrechetExtrapolated with 16 or more"
    )
    assert warned(lambda: run(tmp_path / "8", fid(measures=[]), num=8), "too large") == [text]
    assert warned(lambda: run(tmp_path / "9", fid(measures=[]), num=9), "too large") == []


def test_features_that_are_trained_on_are_told(tmp_path, fid, classifier):
    """Once, whether a fit begins or its result is measured."""
    module = flow()
    module.objective = MomentMatching(Euler(1), pretrained(classifier, "raw"), ["body"])
    told = warned(lambda: run(tmp_path, fid(measures=[]), module=module), "trains on the network")
    assert told == [
        "MomentMatching trains on the network whose tiny features measure the result, so that their distance "
        "says little; measure in another network's as well, by a second flowlit.callbacks.FID"
    ]
    assert warned(lambda: run(tmp_path, fid(measures=[])), "trains on the network") == []


@pytest.mark.parametrize("command", ["validate", "test"])
def test_without_an_extractor_there_are_costs_and_no_distance(command, tmp_path, fid):
    features = FirstAvailable([OwnFeatures("/nowhere/last.ckpt")])
    told = warned(lambda: run(tmp_path, fid(features=features), command=command), "no distance")
    assert len(told) == 1 and "/nowhere/last.ckpt does not exist" in told[0]
    name = "metrics_test.json" if command == "test" else "metrics.json"
    metrics = json.loads((tmp_path / name).read_text())["metrics"]
    assert metrics["nfe/euler1"] == 1 and metrics["nfe/rk45"] > 1
    assert not any("frechet" in tag or "fid" in tag for tag in metrics)


def test_costs_are_logged_once_where_another_extractor_is_there(tmp_path, fid):
    """Both callbacks logged them, in different ways, and Lightning refused the second at the end."""
    absent = fid(features=FirstAvailable([OwnFeatures("/nowhere/last.ckpt")]))
    alone = run(tmp_path, fid(measures=[]), num=20)["metrics"]
    for callbacks in ([fid(measures=[]), absent], [absent, fid(measures=[])]):
        again = run(tmp_path, *callbacks, num=20)["metrics"]  # most images are not generated again
        assert {name: again[name] for name in alone if name.startswith("nfe")} == {
            name: alone[name] for name in alone if name.startswith("nfe")
        }


def test_without_an_extractor_images_that_are_not_finite_are_refused(tmp_path, fid):
    module = flow()
    next(module.network.parameters()).data.fill_(float("nan"))
    features = FirstAvailable([OwnFeatures("/nowhere/last.ckpt")])
    with pytest.raises(FlowlitError, match="not finite"):
        run(tmp_path, fid(features=features), module=module)


def test_few_real_images_are_told(tmp_path, fid):
    few = Digits(limit=8)
    for num, words in ((9, "8 real images"), (8, "8 generated and 8 real images")):
        told = warned(
            lambda num=num: run(tmp_path / str(num), fid(measures=[], reference=few), num=num), "too large"
        )
        assert len(told) == 1 and told[0].startswith(f"{words} for 8 features: their Fréchet distance is far")


def test_the_extrapolated_distance_stands_beside_the_plain_one(tmp_path, fid, classifier):
    report = run(tmp_path, fid(measures=[FrechetExtrapolated()]), num=40)
    features = stored(tmp_path)["rk45.features"]
    extractor = ClassifierFeatures(classifier, "tiny")
    real = extractor(torch.stack([REAL[i]["x1"] for i in range(90)]))
    expected = FrechetExtrapolated()(FeatureBatch(features), real)["fid_extrapolated"]
    found = report["metrics"]["frechet_extrapolated_tiny/rk45"]
    assert found == pytest.approx(expected.value, rel=1e-4) and found < report["metrics"]["frechet_tiny/rk45"]
    assert report["spread"]["frechet_extrapolated_tiny/rk45"] == pytest.approx(expected.spread, rel=1e-3)


def test_subsets_that_a_limit_left_too_few_images_for_are_one_clear_error(tmp_path, fid):
    with pytest.raises(FlowlitError, match="KID: subsets of 20 images, but there are 16 generated"):
        run(tmp_path, fid(), num=40, batch=8, limit_val_batches=2)


class Never(Callback):
    """No image may be generated."""

    def on_validation_batch_start(self, *_):
        raise AssertionError("an image was generated")


def refused(tmp_path, fid, match, **settings):
    with pytest.raises(FlowlitError, match=match):
        run(tmp_path, fid, Never(), **settings)
    assert not (tmp_path / "metrics.json").exists()


def test_what_cannot_be_measured_is_refused_before_the_first_image(tmp_path, fid, classifier):
    refused(tmp_path, fid(measures=[KID()]), "subsets of 1000 images, but there are 40 generated and 90 real")
    refused(tmp_path, fid(measures=[InceptionScore(50)]), "50 splits of 40 images")
    refused(tmp_path, fid(measures=[FrechetExtrapolated()]), "found 7 generated and 90 real", num=7)
    refused(
        tmp_path,
        fid(features=Mean(), measures=[InceptionScore()]),
        "InceptionScore needs classes, which mean features do not",
    )
    path = str(tmp_path / "real.npz")
    make_reference(REAL, ClassifierFeatures(classifier, "tiny"), path)
    refused(
        tmp_path,
        fid(reference=path),
        r"KID needs the features of real images, and .*real\.npz holds their mean and covariance",
    )
    refused(
        tmp_path,
        fid(reference=str(tmp_path / "none.npz")),
        r"none\.npz do not exist; make them: flowlit reference",
    )
    refused(tmp_path, fid("other", [], path), "its features are tiny, the run's other")
    np.savez(
        tmp_path / "wide.npz",
        mu=np.zeros(5),
        sigma=np.eye(5),
        protocol=np.array(json.dumps({"features": {"name": "tiny"}})),
    )
    refused(
        tmp_path,
        fid(measures=[], reference=str(tmp_path / "wide.npz")),
        "is of 5 features, but the run has 8",
    )


def test_measures_in_a_fit_are_refused_before_the_first_step(tmp_path, fid):
    data = FlowDataModule(Independent(Digits(limit=16, labels=False)), 8, SeededNoise(tiny.SHAPE, 8))
    module = Teacher(tiny_unet())
    with pytest.raises(FlowlitError, match="leave measures to validate and test"):
        tiny.trainer(tmp_path, 1, [fid()]).fit(module, data)


class Broken(Mean):
    """Features of a network that overflows on one image."""

    def __call__(self, images):
        found = super().__call__(images)
        found[3, 1] = torch.inf
        return found


def test_features_that_are_not_finite_are_counted_and_refused(tmp_path, fid):
    with pytest.raises(FlowlitError, match="1 of 16 images have mean features that are not finite"):
        run(tmp_path, fid(measures=[], features=Broken(), reference=str(mean_reference(tmp_path))), num=40)
    assert not (tmp_path / "metrics.json").exists()


def mean_reference(tmp_path):
    make_reference(REAL, Mean(), str(tmp_path / "mean.npz"))
    return tmp_path / "mean.npz"


def test_images_that_are_not_finite_are_counted_and_refused(tmp_path, fid):
    class Diverged(torch.nn.Module):
        def forward(self, x, t, cond={}):
            return torch.where((torch.arange(len(x)) % 5 == 0)[:, None, None, None], torch.nan, x)

    module = FlowModule(Diverged(), RectifiedFlow(), solvers={"euler1": Euler(1)})
    with pytest.raises(FlowlitError, match="euler1: 4 of 16 generated images are not finite"):
        run(tmp_path, fid(), num=40, module=module)


# -----------------------------------------------------------------------------------------------------------
# references


def test_a_file_serves_as_the_images_do(tmp_path, fid, classifier):
    path = str(tmp_path / "real.npz")
    make_reference(REAL, ClassifierFeatures(classifier, "tiny"), path, keep_features=True)
    images, file = run(tmp_path / "a", fid(), num=40), run(tmp_path / "b", fid(reference=path), num=40)
    assert numbers(images) == numbers(file)
    told = file["features"]["tiny"]["reference"]
    assert told["file"] == path and told["count"] == 90 and told["range"] == [0, 255]
    assert told["sha256"] == images["features"]["tiny"]["reference"]["sha256"]


@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_features_of_a_reference_are_read_before_images_are_generated(tmp_path, fid, classifier, value):
    """They were needed, and refused, when all images had been generated."""
    path = tmp_path / "real.npz"
    make_reference(REAL, ClassifierFeatures(classifier, "tiny"), str(path), keep_features=True)
    arrays = {**np.load(path)}
    arrays["features"] = np.full(arrays["features"].shape, value)
    np.savez(path, **arrays)
    with pytest.raises(FlowlitError, match=r"real.npz: its features cannot be read \(they are not finite"):
        run(tmp_path, fid(reference=str(path)), num=40)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_yaml_names_images_or_a_file(tmp_path, classifier, cli):
    path = tmp_path / "real.npz"
    make_reference(REAL, ClassifierFeatures(classifier, "tiny"), str(path), keep_features=True)
    content = configured(tmp_path / "run", classifier)
    images = cli("validate", "-c", tiny.write(tmp_path / "a.yaml", content))
    assert images.code == 0, images.err
    before = json.loads((tmp_path / "run/metrics.json").read_text())
    content["trainer"]["callbacks"][0]["init_args"]["reference"] = str(path)
    file = cli("validate", "-c", tiny.write(tmp_path / "b.yaml", content))
    assert file.code == 0, file.err
    after = json.loads((tmp_path / "run/metrics.json").read_text())
    assert numbers(before) == numbers(after) and after["features"]["tiny"]["reference"]["file"] == str(path)


# report


def test_a_report_tells_everything_that_a_number_depends_on(tmp_path, fid, classifier):
    import importlib.metadata

    report = run(tmp_path, fid(), num=40, seed=3, classes=10)
    module, extractor = flow(classes=10), ClassifierFeatures(classifier, "tiny")
    assert report["command"] == "validate" and report["images"] == 40 and report["seconds"] > 0
    assert report["noise"]["seed"] == 3 and "Philox" in report["noise"]["generator"]
    assert report["noise"]["shape"] == [1, 8, 8] and report["noise"]["labels"] == "balanced by index"
    assert report["solvers"] == {
        "rk45": {"class_path": "flowlit.solvers.RK45", "init_args": {"rtol": 0.05, "atol": 0.05}},
        "euler1": {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 1, "rho": 1.0}},
    }
    assert (
        report["metrics"]["nfe/euler1"] == 1
        and report["metrics"]["nfe/rk45"] == stored(tmp_path)["rk45.nfe"].double().mean()
    )
    assert (
        report["sha256"] == fingerprint(module.network)
        and report["weights"] == "raw"
        and report["ema"] is None
    )
    assert (
        report["params"] == sum(p.numel() for p in module.network.parameters())
        and report["checkpoint"] is None
    )
    assert report["precision"] == "32-true" and report["rounding"] == "to nearest, clamped to 0 … 255"
    assert report["codec"]["class_path"] == "flowlit.data.Pixels"
    told = report["features"]["tiny"]
    assert (told["sha256"], told["dim"], told["resize"], told["images"]) == (
        extractor.fingerprint(),
        8,
        "none",
        40,
    )
    reference = make_reference(REAL, extractor, str(tmp_path / "r.npz"))
    assert (
        told["reference"]["sha256"] == reference.sha256() and told["reference"]["images"] == REAL.fingerprint
    )
    assert [measure["class"].rsplit(".", 1)[1] for measure in told["measures"]] == [
        "KID",
        "InceptionScore",
        "PrecisionRecall",
    ]
    assert (told["measures"][0]["subsets"], told["measures"][0]["subset_size"]) == (3, 20)
    assert (
        report["versions"]["torch"] == torch.__version__.split("+")[0]
        or report["versions"]["torch"] == torch.__version__
    )
    assert report["versions"]["torch-fidelity"] == importlib.metadata.version("torch-fidelity")
    assert report["versions"].keys() >= {"flowlit", "python", "torch", "torchvision", "lightning", "numpy"}
    assert (
        report["hardware"]["kind"] == "cpu"
        and report["hardware"]["devices"] == 1
        and report["hardware"]["device"]
    )
    assert report["date"].startswith("20") and report["spread"].keys() < report["metrics"].keys()


def test_the_table_lines_up_and_names_features_and_spread(tmp_path, fid, capsys):
    report = run(tmp_path, fid(), num=40)
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("validate: 40 images"))
    assert "tiny features" in lines[start] and "seed 0" in lines[start] and "raw weights" in lines[start]
    rows = [line for line in lines[start + 2 :] if line and not line.startswith("/")]
    table = rows[: next((i for i, line in enumerate(rows) if line.startswith("  ") and i), len(rows))]
    assert len({len(line) for line in table if "─" not in line}) == 1, "\n".join(table)
    text = "\n".join(rows)
    for tag in (
        "frechet_tiny",
        "frechet_tiny_half",
        "kernel_distance_tiny",
        "classifier_score_tiny",
        "precision_tiny",
        "nfe",
    ):
        assert tag in text
    value, spread = report["metrics"]["frechet_tiny/rk45"], report["spread"]["frechet_tiny/rk45"]
    assert f"{value:.5g} ± {spread:.2g}" in text
    assert "fid" not in text.replace("fidelity", "") and str(tmp_path / "metrics.json") in text + "\n".join(
        lines
    )


def test_a_fit_writes_no_report_and_no_features(tmp_path, fid):
    data = FlowDataModule(Independent(Digits(limit=16, labels=False)), 8, SeededNoise(tiny.SHAPE, 20), 8)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    module = Teacher(tiny_unet(), solvers={"euler1": Euler(1)})
    trainer = tiny.trainer(tmp_path, 2, [fid(measures=[]), Report()], logger=logger)
    trainer.fit(module, data)
    assert trainer.callback_metrics["frechet_tiny/euler1"] > 0 and trainer.callback_metrics["nfe/euler1"] == 1
    assert not list(tmp_path.glob("metrics*.json")) and not (tmp_path / "features").exists()
    after = run(tmp_path / "after", fid(measures=[]), module=module, num=20)
    assert float(trainer.callback_metrics["frechet_tiny/euler1"]) == pytest.approx(
        after["metrics"]["frechet_tiny/euler1"], rel=1e-5
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a fit with an average."""
    root = tmp_path_factory.mktemp("trained")
    done = in_process("fit", "-c", tiny.write(root / "fit.yaml", tiny.fit(root / "run", steps=4)))
    assert done.code == 0, done.err
    return root / "run/checkpoints/last.ckpt"


AVERAGE = {"decay": 0.9, "warmup": True, "updates": 4}


def test_a_report_tells_the_average_and_its_checkpoint_however_it_was_loaded(
    tmp_path, classifier, trained, cli
):
    ways = {
        "ckpt_path": (None, ["--ckpt_path", trained]),
        "pretrained": (
            {"class_path": "flowlit.networks.pretrained", "init_args": {"checkpoint": str(trained)}},
            [],
        ),
    }
    reports = []
    for name, (network, words) in ways.items():
        path = tiny.write(tmp_path / f"{name}.yaml", configured(tmp_path / name, classifier, network))
        done = cli("validate", "-c", path, *words)
        assert done.code == 0, done.err
        reports.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    for report in reports:
        assert (report["weights"], report["ema"]) == ("ema", AVERAGE)
        assert report["checkpoint"]["file"] == str(trained) and report["checkpoint"]["sha256"] == file_hash(
            trained
        )
    assert numbers(reports[0]) == numbers(reports[1]) and reports[0]["sha256"] == reports[1]["sha256"]


def test_a_report_tells_raw_weights(tmp_path, classifier, trained, cli):
    network = {
        "class_path": "flowlit.networks.pretrained",
        "init_args": {"checkpoint": str(trained), "weights": "raw"},
    }
    done = cli(
        "validate", "-c", tiny.write(tmp_path / "a.yaml", configured(tmp_path / "run", classifier, network))
    )
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (report["weights"], report["ema"]) == ("raw", None) and "raw weights" in done.out


def test_weights_that_were_trained_on_are_not_those_of_the_file_they_came_from(tmp_path, fid, trained):
    """A network from a checkpoint, fitted and then validated by the same program."""
    from flowlit.networks import pretrained

    module = Teacher(pretrained(str(trained)), solvers={"euler1": Euler(1)})
    data = FlowDataModule(Independent(Digits(limit=16, labels=False)), 8, SeededNoise(tiny.SHAPE, 20), 8)
    assert run(tmp_path / "before", fid(measures=[]), module=module, data=data)["checkpoint"]["file"] == str(
        trained
    )
    tiny.trainer(tmp_path, 2, [EMA(0.5)], limit_val_batches=0).fit(module, data)
    report = run(tmp_path / "after", fid(measures=[]), module=module, data=data)
    assert report["checkpoint"] is None and report["ema"] == {"decay": 0.5, "warmup": True, "updates": 2}


# sweep


def rows(root):
    with open(Path(root) / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def swept(tmp_path, fid, module, solvers, exact=None, num=24, **arguments):
    data = FlowDataModule(noise=SeededNoise(tiny.SHAPE, 24), noise_batch_size=10)
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    trainer = tiny.trainer(tmp_path, 1, [fid(measures=[])], logger=logger)
    trainer.sweep(module, data, solvers=solvers, exact=exact, num=num, **arguments)
    return {row["solver"]: row for row in rows(tmp_path)}


def test_errors_fall_with_the_order_of_the_solver(tmp_path, fid):
    """In dx/dt = a x + b t + c, whose solution is known: x(1) = e^a (x0 + c/a + b/a²) - (b + c)/a - b/a²."""
    a, b, c = 0.7, -0.9, 0.4
    module = FlowModule(LinearField(a, b, c), RectifiedFlow())
    steps = (4, 8, 16)
    solvers = {f"{kind.__name__.lower()}{n}": kind(n) for kind in (Heun, Euler) for n in steps}
    found = swept(tmp_path, fid, module, {**solvers, "exact": RK45(1e-6, 1e-6)})
    x0 = SeededNoise(tiny.SHAPE, 24).batch(range(24)).x0.double()
    x1 = np.exp(a) * (x0 + c / a + b / a**2) - (b + c) / a - b / a**2
    for name, solver in solvers.items():
        with torch.no_grad():
            expected = float((solver(module.network, x0.float()).x1.double() - x1).square().mean().sqrt())
        assert float(found[name]["endpoint_error"]) == pytest.approx(expected, rel=2e-2, abs=1e-6)
    for kind, order in (("euler", 1), ("heun", 2)):
        error = [float(found[f"{kind}{n}"]["endpoint_error"]) for n in steps]
        assert np.log2(np.array(error[:-1]) / error[1:]) == pytest.approx([order] * 2, abs=0.25)
    assert float(found["exact"]["endpoint_error"]) == 0


def test_a_table_of_solvers_is_in_the_order_of_their_cost(tmp_path, fid):
    solvers = {"heun8": Heun(8), "euler1": Euler(1), "heun2": Heun(2), "euler9": Euler(9)}
    found = swept(tmp_path, fid, flow(), solvers, Heun(16))
    assert [(name, float(row["nfe"])) for name, row in found.items()] == [
        ("euler1", 1),
        ("heun2", 4),
        ("euler9", 9),
        ("heun8", 16),
    ]
    assert {"solver", "family", "nfe", "endpoint_error", "frechet_tiny", "frechet_tiny_half"} <= found[
        "euler1"
    ].keys()
    assert found["heun2"]["family"] == "Heun"
    alone = run(tmp_path / "alone", fid(measures=[]), num=24, module=flow(solvers=solvers))
    for name, row in found.items():
        assert float(row["frechet_tiny"]) == pytest.approx(alone["metrics"][f"frechet_tiny/{name}"], rel=1e-6)
    with Image.open(tmp_path / "sweep.png") as picture:
        assert (
            picture.format == "PNG" and min(picture.size) > 300 and np.array(picture.convert("L")).std() > 5
        )


def test_errors_are_of_the_samples_that_were_asked_for_also_when_swept_again(tmp_path, fid):
    solvers = {"euler1": Euler(1), "euler2": Euler(2)}
    first = swept(tmp_path, fid, flow(), solvers, Heun(20), num=15)
    again = swept(tmp_path, fid, flow(), solvers, Heun(20), num=15)
    assert first == again
    noise, module = SeededNoise(tiny.SHAPE, 24).batch(range(15)), flow().eval()
    with torch.no_grad():
        one, exact = (solver(module.network, noise.x0).x1 for solver in (Euler(1), Heun(20)))
    squares = (one - exact).flatten(1).double().square().mean(1)
    error = float(squares.mean().sqrt())
    assert float(first["euler1"]["endpoint_error"]) == pytest.approx(error, rel=1e-4)
    assert float(first["euler1"]["endpoint_error_spread"]) == pytest.approx(
        float(squares.std() / 15**0.5 / 2 / error), rel=1e-3
    )


def test_a_sweep_by_the_command_line_takes_solvers_from_its_yaml(tmp_path, classifier, cli):
    content = configured(tmp_path / "run", classifier, measures=False)
    content["solvers"] = {
        "heun2": {"class_path": "flowlit.solvers.Heun", "init_args": {"steps": 2}},
        "euler1": {"class_path": "flowlit.solvers.Euler", "init_args": {"steps": 1}},
    }
    content |= {"exact": {"class_path": "flowlit.solvers.Heun", "init_args": {"steps": 10}}, "num": 16}
    done = cli("sweep", "-c", tiny.write(tmp_path / "sweep.yaml", content))
    assert done.code == 0, done.err
    assert [row["solver"] for row in rows(tmp_path / "run")] == ["euler1", "heun2"]
    assert (tmp_path / "run/sweep.png").stat().st_size > 1000 and "sweep.csv" in done.out
    report = json.loads((tmp_path / "run/metrics_sweep.json").read_text())
    assert report["endpoint_error"] == {"exact": repr(Heun(10)), "samples": 16}
    assert report["spread"]["endpoint_error/euler1"] > 0
    assert report["solvers"]["heun2"]["init_args"]["steps"] == 2


# -------------------------------------------------------------------------------------------------------
# torch-fidelity


@pytest.mark.slow
@pytest.mark.journey
@pytest.mark.timeout(900)
def test_numbers_are_those_of_torch_fidelitys_command_line_on_the_same_pngs(tmp_path):
    """The whole way: noise, network, solver, rounding, features, distances; against PNGs that others read and
    measure.
    """
    weights = inception_weights(tmp_path / "weights.pth")
    generated, real = 24, 32
    extractor = {
        "class_path": "flowlit.metrics.Inception",
        "init_args": {"weights": weights, "sha256": file_hash(weights)},
    }
    digits = {"class_path": "flowlit.data.Digits", "init_args": {"limit": real}}
    measures = [
        {"class_path": "flowlit.metrics.KID", "init_args": {"subsets": 5, "subset_size": 20}},
        {"class_path": "flowlit.metrics.InceptionScore", "init_args": {"splits": 4}},
        {"class_path": "flowlit.metrics.PrecisionRecall"},
    ]
    fid = {"features": extractor, "reference": digits, "measures": measures, "cache": str(tmp_path / "cache")}
    content = tiny.fit(tmp_path / "run", data={"noise": tiny.noise(generated), "noise_batch_size": 7})
    content["model"]["init_args"]["network"] = {"class_path": "tiny.Affine"}
    content["trainer"] |= {
        "limit_val_batches": 1.0,
        "callbacks": [
            {"class_path": "flowlit.callbacks.FID", "init_args": fid},
            {
                "class_path": "flowlit.callbacks.ImageWriter",
                "init_args": {"folder": str(tmp_path / "generated")},
            },
            {"class_path": "flowlit.callbacks.Report"},
        ],
    }
    path = tiny.write(tmp_path / "run.yaml", {**content, "untrained": True})
    for command in ("validate", "predict"):
        done = in_process(command, "-c", path)
        assert done.code == 0, done.err
    (tmp_path / "real").mkdir()
    for i in range(real):
        Image.fromarray(Digits()[i]["x1"][0].numpy()).save(tmp_path / f"real/{i:04d}.png")
    words = [
        "--input1",
        tmp_path / "generated",
        "--input2",
        tmp_path / "real",
        "--feature-extractor-weights-path",
        weights,
    ]
    words += [
        "--fid",
        "--kid",
        "--isc",
        "--prc",
        "--kid-subset-size",
        20,
        "--kid-subsets",
        5,
        "--isc-splits",
        4,
    ]
    words += ["--feature-extractor", "inception-v3-compat", "--feature-layer-prc", 2048]  # VGG16's by default
    words += ["--json", "--cpu"]
    command = [sys.executable, "-m", "torch_fidelity.fidelity", *map(str, words), "--no-cache", "--silent"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert told.returncode == 0, told.stderr[-2000:]
    theirs = json.loads(told.stdout[told.stdout.index("{") :])
    ours = json.loads((tmp_path / "run/metrics.json").read_text())
    name = f"inception_{file_hash(weights)[:8]}"
    assert ours["features"].keys() == {name}
    pairs = {
        "frechet": "frechet_inception_distance",
        "kernel_distance": "kernel_inception_distance_mean",
        "classifier_score": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }
    found = {key: ours["metrics"][f"{key}_{name}/euler2"] for key in pairs}
    assert found == pytest.approx({key: theirs[value] for key, value in pairs.items()}, rel=1e-4), (
        found,
        theirs,
    )
    spreads = {"kernel_distance": "kernel_inception_distance_std", "classifier_score": "inception_score_std"}
    for key, value in spreads.items():
        assert ours["spread"][f"{key}_{name}/euler2"] == pytest.approx(theirs[value], rel=1e-3)
    assert found["frechet"] > 0.01 and found["classifier_score"] > 1
