"""What a review of the evaluation found: each test is named after the mistake."""

import json

import pytest
import tiny
import torch
from commandline import in_process
from evaluations import REAL, Count, classifier, fid, flow, run, small_files  # noqa: F401 - fixtures
from tools import Mean, randomise, tiny_unet
from torch import nn

from flowlit.callbacks import FID
from flowlit.callbacks.evaluation.fid_checks import check_name
from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.metrics import FirstAvailable, Inception, OwnFeatures
from flowlit.metrics.base import FeatureBatch, FeatureMetric
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler, Heun
from flowlit.types import Solver


class Scaled(nn.Module):
    """A wrapper with a number of its own, as guidance has; no parameters of its own."""

    def __init__(self, scale):
        super().__init__()
        self.inner, self.scale = randomise(tiny_unet(), 1), scale

    def forward(self, x, t, cond={}):
        return self.scale * self.inner(x, t, cond)


def scaled(scale, solvers=None):
    return FlowModule(Scaled(scale), RectifiedFlow(), solvers=solvers or {"euler1": Euler(1)})


def test_networks_of_equal_weights_and_another_scale_share_no_features(tmp_path, fid):
    first = run(tmp_path, fid(), module=scaled(1.0))
    count = Count()
    second = run(tmp_path, fid(), count, module=scaled(3.0))
    assert len(count.indices) == 40 and second["features"]["tiny"]["kept"] == 0
    assert first["metrics"]["frechet_tiny/euler1"] != second["metrics"]["frechet_tiny/euler1"]


class Plain(Solver):
    """A solver that is no dataclass."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        return Euler(self.steps)(velocity, x0, cond)


def test_a_solver_that_is_no_dataclass_has_an_identity_of_its_own(tmp_path, fid):
    run(tmp_path, fid(), module=scaled(1.0, {"mine": Plain(2)}))
    again, other = Count(), Count()
    run(tmp_path, fid(), again, module=scaled(1.0, {"mine": Plain(2)}))
    run(tmp_path, fid(), other, module=scaled(1.0, {"mine": Plain(3)}))
    assert len(again.indices) == 16 and len(other.indices) == 40
    assert len([path for path in (tmp_path / "features").iterdir() if path.is_dir()]) == 2


def test_ranks_agree_on_the_features_of_such_a_solver(tmp_path, fid):
    module = scaled(1.0, {"mine": Plain(2)})
    report = run(tmp_path, fid(), module=module, devices=2, strategy="ddp_fork")
    assert report["images"] == 40


def test_a_checkpoint_that_changes_meanwhile_is_reported_as_it_was_read(tmp_path):
    configuration = tiny.write(tmp_path / "teacher.yaml", tiny.fit(tmp_path / "run"))
    assert in_process("fit", "-c", configuration).code == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    callbacks = [
        {"class_path": f"{__name__}.Overwrite", "init_args": {"path": str(last)}},
        {"class_path": "flowlit.callbacks.Report"},
    ]
    from flowlit._support.files import file_hash

    before = file_hash(last)
    content = tiny.fit(tmp_path / "run", callbacks=callbacks) | {"ckpt_path": str(last)}
    content["trainer"]["limit_val_batches"] = 1.0
    done = in_process("validate", "-c", tiny.write(tmp_path / "validate.yaml", content))
    assert done.code == 0, done.err
    assert (
        json.loads((tmp_path / "run/metrics.json").read_text())["checkpoint"]["sha256"]
        == before
        != file_hash(last)
    )


class Overwrite(Count):
    """Writes another file in its place, as a training that goes on does."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_validation_batch_end(self, *_, **__):
        with open(self.path, "ab") as file:
            file.write(b"more")


def test_what_was_kept_is_counted_among_what_was_measured(tmp_path, fid):
    run(tmp_path, fid(), num=60, command="test")
    report = run(tmp_path, fid(), num=30)
    assert report["images"] == 30 and report["features"]["tiny"]["kept"] == 30
    assert report["features"]["tiny"]["made_on"] == [report["hardware"]["device"]]
    assert report["features"]["tiny"]["device_seconds"] > 0


def test_lost_features_are_not_taken_for_a_limit(tmp_path, fid, small_files):
    class Thief(Count):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 2:
                next(iter((tmp_path / "features").rglob("0*.safetensors"))).unlink()

    with pytest.raises(
        FlowlitError, match=r"features of 32 of 40 images are there; did another process remove some"
    ):
        run(tmp_path, fid(), Thief(), num=40, batch=8)


@pytest.mark.parametrize("name", ["a/1", "sum", "per_dimension", "", "two words"])
def test_a_solver_whose_name_breaks_tags_is_refused_before_work(tmp_path, fid, name):
    count = Count()
    with pytest.raises(FlowlitError, match="its name becomes part of tags"):
        run(tmp_path, fid(), count, module=flow(solvers={name: Euler(1)}))
    assert not count.indices


class Silent(Mean):
    """Says that it classifies, and does not."""

    classifies = True

    def extract(self, images):
        return FeatureBatch(self(images))


def test_features_without_logits_can_be_measured_where_none_are_needed(tmp_path):
    report = run(tmp_path, FID(Silent(), REAL, cache=str(tmp_path)))
    assert [name for name in report["metrics"] if name.startswith("frechet")]


class Doubling(Pixels):
    """Images are twice as large as what the flow works on, as those of a decoder are."""

    def decode(self, x1):
        return super().decode(x1).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_images_may_have_another_shape_than_noise(tmp_path, fid):
    from flowlit.data.images import _InMemory

    class Large(_InMemory):
        def _read(self):
            images, labels = REAL.data
            return images.repeat_interleave(2, 2).repeat_interleave(2, 3), labels

    module = FlowModule(
        randomise(tiny_unet(), 1), RectifiedFlow(), solvers={"euler1": Euler(1)}, codec=Doubling()
    )
    assert run(tmp_path, fid(reference=Large(90, False)), module=module)["metrics"]["frechet_tiny/euler1"] > 0


def test_no_other_features_may_be_called_inception(tmp_path):
    fake = Mean()
    fake.name = "inception"
    with pytest.raises(FlowlitError, match="only Inception's are"):
        run(tmp_path, FID(fake, REAL, cache=str(tmp_path)))


@pytest.mark.parametrize("name", ["extrapolated_mine", "mine_half", "a/b", ""])
def test_features_whose_numbers_would_be_taken_for_others_are_refused(name):
    features = Mean()
    features.name = name
    with pytest.raises(FlowlitError, match="becomes part of tags"):
        check_name(features)


def test_inception_among_several_extractors_keeps_its_name():
    check_name(FirstAvailable([OwnFeatures("/nowhere/last.ckpt"), Inception()]))
    fake = Mean()
    fake.name = "inception"
    with pytest.raises(FlowlitError, match="Mean is called 'inception', but only Inception's are"):
        check_name(FirstAvailable([fake]))


def test_what_is_not_finite_is_an_error_and_json_stays_json(tmp_path):
    class Broken(Count):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("broken/euler1", float("nan"))

    with pytest.raises(FlowlitError, match="broken/euler1 could not be computed"):
        run(tmp_path, Broken())
    assert (
        json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)["metrics"][
            "broken/euler1"
        ]
        is None
    )


def test_a_sweep_gives_the_solvers_back(tmp_path):
    module = scaled(1.0)
    data = FlowDataModule(noise=tiny_noise(20), noise_batch_size=10)
    tiny.trainer(tmp_path, 1).sweep(module, data, solvers={"heun": Heun(2)}, exact=Euler(8), num=4)
    assert list(module.solvers) == ["euler1"]


def test_a_sweep_needs_no_distance_and_knows_its_samples(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    from flowlit.callbacks import Report

    data = FlowDataModule(noise=tiny_noise(20), noise_batch_size=10)
    trainer = tiny.trainer(
        tmp_path, 1, [Report()], logger=TensorBoardLogger(str(tmp_path), name="", version="")
    )
    trainer.sweep(scaled(1.0), data, solvers={"heun": Heun(2), "euler": Euler(1)}, exact=Euler(8), num=4)
    assert (tmp_path / "sweep.csv").read_text().splitlines()[1].startswith("euler,Euler,")
    assert json.loads((tmp_path / "metrics_sweep.json").read_text())["command"] == "sweep"
    with pytest.raises(FlowlitError, match=r"needs 21 samples, but data\.noise\.num is 20"):
        trainer.sweep(scaled(1.0), data, exact=Euler(8), num=21)


def tiny_noise(num):
    from flowlit.couplings import SeededNoise

    return SeededNoise(tiny.SHAPE, num)


def test_fewer_images_than_processes_are_refused(tmp_path, fid):
    with pytest.raises(Exception, match="1 samples cannot be divided among 2 processes"):
        run(tmp_path, fid(measures=[]), num=1, devices=2, strategy="ddp_fork")


def test_a_mistake_on_rank_zero_is_told_on_all(tmp_path, fid):
    with pytest.raises(Exception, match="do not exist; make them"):
        run(tmp_path, fid(reference=str(tmp_path / "missing.npz")), devices=2, strategy="ddp_fork")


def test_an_identity_tells_what_decides_and_nothing_else():
    network = tiny_unet()
    one = identity(network)
    network.eval()
    network.loaded = {"file": "somewhere"}
    assert identity(network) == one
    assert identity(Scaled(1.0)) != identity(Scaled(2.0)) and identity(Scaled(1.0)) == identity(Scaled(1.0))
    assert identity(Plain(2)) != identity(Plain(3)) and "0x" not in json.dumps(identity(Plain(2)))
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert identity(network)["weights"] != one["weights"]
    looped = Plain(1)
    looped.own = looped
    json.dumps(identity(looped))


def test_features_that_this_code_would_not_make_are_refused(tmp_path, fid, monkeypatch):
    run(tmp_path, fid(), module=scaled(1.0))
    monkeypatch.setattr(Scaled, "forward", lambda self, x, t, cond={}: -2 * self.inner(x, t, cond))
    with pytest.raises(FlowlitError, match="holds other features of the same samples"):
        run(tmp_path, fid(), module=scaled(1.0))


class Bare(FeatureMetric):
    def __call__(self, generated, real):
        return {"bare": 1.0}


def test_a_measure_that_returns_something_else_is_named(tmp_path, fid):
    with pytest.raises(FlowlitError, match="Bare returned"):
        run(tmp_path, fid(measures=[Bare()]))


def test_two_processes_make_a_reference_that_is_not_there_yet(tmp_path, fid):
    """Rank 0 made it with sums that waited for rank 1, which waited for rank 0."""
    report = run(tmp_path, fid(measures=[]), devices=2, strategy="ddp_fork")
    assert report["features"]["tiny"]["reference"]["count"] == len(REAL)


def test_a_damaged_reference_of_our_own_is_made_again(tmp_path, fid):
    first = run(tmp_path, fid())
    (path,) = (tmp_path / "cache").glob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    assert run(tmp_path, fid())["metrics"] == first["metrics"]


def test_a_misspelt_variable_is_refused(cli):
    done = cli(
        "validate", "-c", "experiments/evaluate_digits.yaml", "--vars.stag", "reflow", "--print_config"
    )
    assert "no such variable" in done.error and "stage" in done.error
