"""Where generation starts is a ``Source``: one that is not N(0, I), and has a condition of its own, through
every stage.
"""

import json

import pytest
import tiny
import torch
from commandline import in_process
from sources import LowResolution, Sharpen
from stores import content, fill

import flowlit
from flowlit.couplings import Cached, Mixed, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import AnnealedReflow, RectifiedFlow
from flowlit.solvers import Euler

pytestmark = pytest.mark.journey

NETWORK = {"class_path": "sources.Sharpen"}


def source(num=8, **arguments):
    images = {"class_path": "flowlit.data.Digits", "init_args": {"limit": 12}}
    return {"class_path": "sources.LowResolution", "init_args": {"images": images, "num": num, **arguments}}


def couple(root, name, **arguments):
    configuration = tiny.fit(root, network=NETWORK)
    configuration["data"]["init_args"] = {"noise": source(1)}
    configuration["trainer"] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    size = {"num": 60, "seed": 5, "shard_size": 8, "batch_size": 4, "untrained": True}
    return tiny.write(
        root / f"{name}.yaml", {**configuration, "store": str(root / name), **size, **arguments}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    outcome = in_process("couple", "-c", couple(root, "store", x0="float32", x1="float32"))
    assert outcome.code == 0, outcome.err
    return root / "store"


def test_validation_starts_from_the_source(tmp_path):
    configuration = tiny.fit(tmp_path, network=NETWORK, data={"noise": source(6, seed=3)})
    configuration["data"]["init_args"].pop("coupling")
    samples = {"class_path": "flowlit.callbacks.Samples", "init_args": {"num": 4}}
    trajectories = {"class_path": "flowlit.callbacks.Trajectories", "init_args": {"num": 2}}
    straightness = {"class_path": "flowlit.callbacks.Straightness", "init_args": {"steps": 4}}
    report = {"class_path": "flowlit.callbacks.Report"}
    configuration["untrained"] = True
    configuration["trainer"] |= {"limit_val_batches": 1.0}
    configuration["trainer"]["callbacks"] = [samples, trajectories, straightness, report]
    outcome = in_process("validate", "-c", tiny.write(tmp_path / "validate.yaml", configuration))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "samples/euler2.png").exists()
    noise = json.loads((tmp_path / "metrics.json").read_text())["noise"]
    assert noise["source"] == "sources.LowResolution" and noise["seed"] == 3 and noise["sigma"] == 0.5


def test_pairs_begin_with_the_source_and_keep_its_conditions(store):
    """Under another seed than that of validation; with its identity in the manifest."""
    manifest = read_manifest(store)
    images = Digits(limit=12)
    assert manifest["noise"] == {
        "source": "sources.LowResolution",
        "images": images.fingerprint,
        "sigma": 0.5,
        "standard_normal": False,
    }
    assert manifest["seeds"] == [5] and manifest["conditions"] == {"lr": ["float32", [1, 4, 4]]}
    rows = [3, 58, 0]
    pairs, expected = StoredPairs([store]).__getitems__(rows), LowResolution(images, 60, seed=5).batch(rows)
    assert torch.equal(pairs.x0, expected.x0) and torch.equal(pairs.cond["lr"], expected.cond["lr"])
    assert pairs.cond.keys() == {"lr"}
    assert in_process("couplings", "verify", store).code == 0


def test_an_interrupted_couple_goes_on_to_the_same_bytes(store, tmp_path, monkeypatch):
    path = couple(tmp_path, "torn", x0="float32", x1="float32")
    write = Store.write_shard

    def fail(self, shard, arrays, facts):
        if shard.number == 4:
            raise FlowlitError("the power is cut")
        write(self, shard, arrays, facts)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_shard", fail)
        assert "the power is cut" in in_process("couple", "-c", path).error
    assert len(list((tmp_path / "torn").glob("*.safetensors"))) == 4
    assert in_process("couple", "-c", path).code == 0
    assert content(tmp_path / "torn") == content(store)


@pytest.mark.parametrize("resident", [False, True])
def test_students_read_the_conditions_of_stored_pairs(store, resident, tmp_path):
    model = FlowModule(Sharpen(), AnnealedReflow(), solvers={"euler1": Euler(1)})
    noise = LowResolution(Digits(limit=12), 4)
    data = FlowDataModule(Cached(str(store), flip=False, resident=resident), 8, noise)
    before = model.network.layer.weight.clone()
    tiny.trainer(tmp_path, 2, limit_val_batches=1, check_val_every_n_epoch=1).fit(model, data)
    assert not torch.equal(before, model.network.layer.weight)


def test_a_store_does_not_go_on_with_another_source(store, tmp_path):
    path = couple(tmp_path, "other", store=str(store), x0="float32", x1="float32", num=70)
    error = in_process("couple", "-c", path, "--data.noise.sigma", 0.25).error
    assert "already holds other pairs" in error and "sigma 0.5" in error and "sigma 0.25" in error


def test_a_source_may_have_labels_but_no_seed_alone_and_no_file_of_labels(tmp_path):
    model = FlowModule(Sharpen(), RectifiedFlow(), solvers={"euler1": Euler(1)})
    data = FlowDataModule(noise=LowResolution(Digits(limit=12), 1, labels=True))
    trainer = tiny.trainer(tmp_path, 1)
    trainer.couple(model, data, store=str(tmp_path / "labelled"), num=14, shard_size=5)
    pairs = StoredPairs([tmp_path / "labelled"]).__getitems__(range(14))
    images = Digits(limit=12)
    assert pairs.cond["label"].tolist() == [int(images[i % 12]["cond"]["label"]) for i in range(14)]
    assert read_manifest(tmp_path / "labelled")["labels"] == {"num_classes": 10, "law": "of the source"}
    with pytest.raises(FlowlitError, match="x0 of LowResolution has no seed; store it: --x0 float16"):
        trainer.couple(model, data, store=str(tmp_path / "new"), num=4, x0="seed")
    with pytest.raises(FlowlitError, match="LowResolution has conditions of its own; drop --labels"):
        trainer.couple(model, data, store=str(tmp_path / "new"), num=4, labels="labels.txt")
    assert not (tmp_path / "new").exists()


def test_generators_sample_from_a_source():
    generator = Generator(Sharpen(), Euler(2), flowlit.data.Pixels())
    noise = LowResolution(Digits(limit=12), 3)
    samples = generator.sample(5, seed=4, batch_size=2, source=noise)
    expected = noise.reseeded(4).batch(range(5))
    assert torch.equal(samples, generator(expected.x0, expected.cond))


@pytest.mark.parametrize("words", [(), ("--data.noise.seed", 4)])
def test_noise_without_a_class_is_seeded_noise(words, tmp_path):
    """In a YAML: ``noise: {shape: …, num: …}``."""
    configuration = tiny.fit(tmp_path, data={"noise": tiny.noise(4)["init_args"]})
    configuration["untrained"] = True
    configuration["trainer"] |= {"limit_val_batches": 1.0}
    configuration["trainer"]["callbacks"] = [{"class_path": "flowlit.callbacks.Report"}]
    outcome = in_process("validate", "-c", tiny.write(tmp_path / "validate.yaml", configuration), *words)
    assert outcome.code == 0, outcome.err
    noise = json.loads((tmp_path / "metrics.json").read_text())["noise"]
    assert noise == SeededNoise(tiny.SHAPE, 4, seed=4 if words else 0).identity()


def test_pairs_with_other_conditions_are_not_mixed(store, tmp_path):
    plain = fill(tmp_path / "plain", origin=FromNoise(SeededNoise(tiny.SHAPE, 20)), num=20)
    mixed = Mixed([Cached(str(store)), Cached(plain)], [0.5, 0.5])
    with pytest.raises(FlowlitError, match=r"have the conditions none, but .* lr; only equal ones"):
        mixed.dataset()
    noise = LowResolution(Digits(limit=12), 20, seed=6)
    other = fill(tmp_path / "other", origin=FromNoise(noise), teacher=Sharpen(), num=20)
    both = Mixed([Cached(str(store)), Cached(other)], [0.5, 0.5])
    pairs = both.complete(both.dataset().__getitems__([0, 70, 3]), torch.device("cpu"))
    expected = LowResolution(Digits(limit=12), 60, seed=5).batch([0, 3])
    assert torch.equal(pairs.cond["lr"][[0, 2]], expected.cond["lr"]) and pairs.cond["lr"].shape == (
        3,
        1,
        4,
        4,
    )
