"""Pairs that are not what they should be, and a `couple` that ended as if they were."""

import logging
import warnings

import pytest
import tiny
import torch
from ends import SHAPE, field_and_model
from stores import one_bit, truncated
from suspects import fill

from flowlit.commands.couple import writer
from flowlit.commands.couple.verification import checked
from flowlit.couplings import Cached, Independent, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.verify import glance
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule
from flowlit.solvers import RK45, Euler
from flowlit.types import Solution


def couple(root, solver=None, model=None, callbacks=(), **options):
    model = model or field_and_model(solver or Euler(2))[1]
    data = FlowDataModule(Independent(Digits(limit=15)), noise=SeededNoise(SHAPE, 8))
    size = {"num": 15, "shard_size": 5, "batch_size": 3, **options}
    tiny.trainer(root, 1, callbacks).couple(model, data, store=str(root / "store"), **size)
    return root / "store"


class Random(Euler):
    """A solver that draws by itself."""

    def __call__(self, velocity, x0, cond={}, *, observe=None, reverse=False):
        return Solution(torch.randn(x0.shape), torch.ones(len(x0), dtype=torch.int64))


@pytest.mark.parametrize("origin", ["noise", "data", "random"])
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float16", "uint8"), ("seed", "float16")])
def test_pairs_of_every_kind_are_generated_again(origin, dtypes, tmp_path, caplog):
    if origin == "data" and dtypes[0] == "seed":
        pytest.skip("has no seed")
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        couple(tmp_path, RK45(), origin=origin, x0=dtypes[0], x1=dtypes[1])
    (line,) = [message for message in caplog.messages if "a quick look" in message]
    assert "4 pairs generated again are the same" in line and "couplings verify" in line and "\n" not in line


def test_pairs_that_chance_makes_are_refused(tmp_path):
    with pytest.raises(
        FlowlitError, match=r"store: 4 pairs generated again differ by .* draw random numbers"
    ):
        couple(tmp_path, Random(2))


def test_pairs_of_other_noise_than_the_store_names_are_refused(tmp_path, monkeypatch):
    """Rows that do not belong together, as after a fault of the writer."""
    again = writer.again
    other = FromNoise(SeededNoise(SHAPE, 8, seed=99))
    monkeypatch.setattr(
        writer, "again", lambda trainer, model, _, *place: again(trainer, model, other, *place)
    )
    with pytest.raises(FlowlitError, match="generated again differ"):
        couple(tmp_path)


@pytest.mark.parametrize("times", [1, 2])
def test_pairs_that_were_refused_are_refused_by_every_later_run(times, tmp_path):
    """No shard is missing then, and nothing is predicted."""
    for _ in range(times):
        with pytest.raises(FlowlitError, match="generated again differ"):
            couple(tmp_path, Random(2))
    assert not read_manifest(tmp_path / "store")["complete"]
    with pytest.raises(FlowlitError, match="is not finished"):
        Cached(str(tmp_path / "store")).dataset()
    with pytest.raises(FlowlitError, match="generated again differ"):
        couple(tmp_path, Random(2))


def test_a_store_with_a_damaged_shard_is_refused_by_every_later_run_until_it_is_removed(tmp_path):
    store = couple(tmp_path)
    one_bit(store / "00000.safetensors")
    for _ in range(2):
        with pytest.raises(FlowlitError, match=r"1 damaged.*00000.*remove it"):
            couple(tmp_path, num=20)
    assert not read_manifest(store)["complete"]
    (store / "00000.safetensors").unlink()
    assert read_manifest(couple(tmp_path, num=20))["complete"]


def test_a_run_that_was_stopped_after_its_last_shard_looks_at_it_when_it_goes_on(
    tmp_path, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finished", lambda store: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            couple(tmp_path)
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        store = couple(tmp_path)
    assert [message for message in caplog.messages if "4 pairs generated again are the same" in message]
    assert read_manifest(store)["complete"]


def test_a_store_that_is_complete_is_not_looked_at_again(tmp_path, caplog):
    couple(tmp_path)
    caplog.clear()
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        couple(tmp_path)
    assert not [message for message in caplog.messages if "a quick look" in message]


def test_a_glance_is_at_the_first_and_the_last_shard(tmp_path):
    store = fill(tmp_path / "pairs", 200, shard_size=50)
    manifest = read_manifest(store)
    checks = {check.name: check for check in glance(store, manifest)}
    assert all(check.good for check in checks.values()), checks
    assert {"files", "indices", "seed", "values", "mean of x0", "correlation of x0, x1", "direction"} <= set(
        checks
    )
    truncated(store / "00001.safetensors")
    assert all(check.good for check in glance(store, manifest)), "not looked at"
    truncated(store / "00003.safetensors")
    (files,) = [check for check in glance(store, manifest) if not check.good]
    assert files.name == "files" and "1 damaged" in files.found and "00003" in files.found
    with pytest.raises(FlowlitError, match=r"1 damaged.*run the same command again"):
        checked(store, manifest, 4, 0.0)


def test_a_few_pairs_have_no_statistics(tmp_path):
    store = fill(tmp_path / "pairs", 20)
    names = {check.name for check in glance(store, read_manifest(store))}
    assert "files" in names and not names & {"mean of x0", "correlation of x0, x1", "direction"}


def test_statistics_that_are_not_as_expected_are_warned_of(tmp_path):
    store = fill(tmp_path / "pairs", 200, shard_size=50, scale=9.0)
    with pytest.warns(UserWarning, match=r"range of x1 .* is the model trained\?"):
        assert "9 of 10 checks" in checked(store, read_manifest(store), 4, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = fill(tmp_path / "good", 200, shard_size=50)
        line = checked(good, read_manifest(good), 4, 0.0)
    assert "10 of 10 checks" in line
    with pytest.raises(FlowlitError, match="differ by nan"):
        checked(store, read_manifest(store), 4, float("nan"))
