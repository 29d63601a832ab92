"""`couple --times`: states of the solver on its way, as sound, resumable and checked as pairs."""

import json
import logging
import math

import pytest
import tiny
import torch
from commandline import REPOSITORY
from ends import SHAPE, field_and_model
from stores import DAMAGE, content, edit_manifest, edit_shard, fill, missing, stamps
from tools import named
from torch import nn

from flowlit.commands.couple import CoupleOptions
from flowlit.couplings import Cached, Independent, Mixed, SeededNoise
from flowlit.couplings.origins import FromNoise
from flowlit.couplings.store.manifest import describe, read_manifest
from flowlit.couplings.store.merge import merge
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.verify import verify
from flowlit.couplings.store.writer import Store
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule
from flowlit.solvers import RK45, Adams, Euler, Heun
from flowlit.solvers.grids import Given

GOLDEN = REPOSITORY / "tests/golden/pairs"
GRID = [0.0, 0.1, 0.3, 0.6, 1.0]
SOLVER = Heun(4, grid=Given(GRID))
CPU = torch.device("cpu")


def make(root, solver=SOLVER, num=12, origin="noise", **words):
    data = FlowDataModule(Independent(Digits(limit=12)), noise=SeededNoise(SHAPE, 8))
    size = {"shard_size": 5, "batch_size": 3, "x0": "float32", "x1": "float32", "times": [0.1, 0.6, 1.0]}
    trainer = tiny.trainer(root, 1)
    words = {**size, **words}
    trainer.couple(
        field_and_model(solver)[1], data, store=str(root / "store"), num=num, origin=origin, **words
    )
    return root / "store"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("states"))


def read(folder, states, rows=range(12), **words):
    coupling = Cached(str(folder), states=states, **words)
    data = coupling.dataset()
    return coupling.complete(data.__getitems__(list(rows)), CPU)


# a pair store is K = 1


class Lift(nn.Module):
    """A velocity whose pairs are the same on any machine."""

    def forward(self, x, t, cond={}):
        return torch.full_like(x, 0.5)


def test_pairs_have_the_bytes_that_they_had_before_there_were_states(tmp_path):
    fill(tmp_path, Lift(), Euler(1), num=6, shard_size=4, x0="float16", x1="float32")
    assert content(tmp_path) == content(GOLDEN)


def test_a_store_of_pairs_from_before_is_one_state(tmp_path):
    pair = StoredPairs([GOLDEN], states=1).__getitems__(range(6))
    plain = StoredPairs([GOLDEN]).__getitems__(range(6))
    assert set(plain.cond) == {"label"} and torch.equal(pair.x1, plain.x1)
    assert pair.cond["path"].shape == (6, 0, 1, 4, 4) and pair.cond["times"].tolist() == [[1.0]] * 6
    with pytest.raises(FlowlitError, match="states is 2, but it holds pairs alone"):
        StoredPairs([GOLDEN], states=2)


def test_one_time_is_a_store_of_pairs(tmp_path):
    whole = content(make(tmp_path / "one", times=[1.0]))
    assert whole == content(make(tmp_path / "none", times=None))
    assert all("times" not in json.loads(text) for name, text in whole.items() if name == "manifest.json")


# states


@pytest.mark.parametrize("x0", ["float32", "seed"])
def test_states_reproduce_the_solver_and_times_are_its_own(x0, tmp_path):
    folder = make(tmp_path, x0=x0, times=[0.1004, 0.6, 1.0])
    assert read_manifest(folder)["times"] == [0.1, 0.6, 1.0], "the solver's own, and not as they were typed"
    pair = read(folder, 3)
    seen = []
    with torch.no_grad():
        end = SOLVER(field_and_model()[0], pair.x0, observe=lambda t, x, v: seen.append(x)).x1
    torch.testing.assert_close(pair.cond["path"], torch.stack([seen[1], seen[3]], 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(pair.x1, end, rtol=0, atol=1e-6)
    assert torch.allclose(pair.cond["times"], torch.tensor([0.1, 0.6, 1.0]).expand(12, 3))
    assert float((pair.cond["path"][:, 0] - pair.x0).abs().mean()) > 1e-3, "and they move"


def test_ends_are_those_of_a_store_without_states(store, tmp_path):
    plain = StoredPairs([make(tmp_path, times=None)]).__getitems__(range(12))
    stored = StoredPairs([store]).__getitems__(range(12))
    assert torch.equal(plain.x1, stored.x1) and torch.equal(plain.x0, stored.x0) and not stored.cond


def test_fewer_states_are_spread_and_end_at_the_data(store):
    two = read(store, 2)
    three = read(store, 3)
    assert two.cond["times"][0].tolist() == pytest.approx([0.6, 1.0])
    assert torch.equal(two.cond["path"], three.cond["path"][:, 1:])
    assert read(store, 1).cond["path"].shape == (12, 0, *SHAPE)


def test_a_store_with_fewer_states_than_asked_for_is_refused(store):
    with pytest.raises(FlowlitError, match=r"states is 4, but it holds 3 states .* flowlit couple … --times"):
        Cached(str(store), states=4).dataset()


def test_rows_are_read_in_any_order_resident_or_not_and_mirrored_with_their_states(store):
    rows = [7, 0, 7, 11]
    whole = read(store, 3)
    for pair in (read(store, 3, rows), StoredPairs([store], states=3).__getitems__(rows)):
        assert torch.equal(pair.cond["path"], whole.cond["path"][rows])
    coupling = Cached(str(store), states=3, resident=True)
    numbers = coupling.dataset().__getitems__(rows)
    assert torch.equal(coupling.complete(numbers, CPU).cond["path"], whole.cond["path"][rows])
    torch.manual_seed(0)
    flipped = read(store, 3, flip=True)
    mirrored = (flipped.x1 != whole.x1).flatten(1).any(1)
    assert 0 < int(mirrored.sum()) < 12
    for row, before in enumerate(whole.cond["path"]):
        assert torch.equal(flipped.cond["path"][row], before.flip(-1) if mirrored[row] else before)


def test_mixed_parts_hand_on_their_states(store, tmp_path):
    other = make(tmp_path, seed=9)
    mixed = Mixed([Cached(str(store), states=3), Cached(str(other), states=3)], [1.0, 1.0])
    pair = mixed.complete(mixed.dataset().__getitems__([0, 12]), CPU)
    assert torch.equal(pair.cond["path"][0], read(store, 3).cond["path"][0])
    assert torch.equal(pair.cond["path"][1], read(other, 3).cond["path"][0])
    with pytest.raises(FlowlitError, match="only equal ones can be mixed"):
        Mixed([Cached(str(store), states=3), Cached(str(other), states=2)], [1.0, 1.0]).dataset()


# as sound as pairs


@pytest.mark.parametrize("damage", DAMAGE[:2])
def test_a_damaged_shard_alone_is_made_again_to_the_same_bytes(damage, tmp_path):
    folder = make(tmp_path)
    before, written = content(folder), stamps(folder)
    damage(folder / "00001.safetensors")
    make(tmp_path)
    assert content(folder) == before
    assert [name for name, time in stamps(folder).items() if time != written[name]] == ["00001.safetensors"]


def test_a_store_that_was_killed_goes_on_and_one_that_is_whole_grows(tmp_path, monkeypatch):
    whole = content(make(tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Store, "finished", lambda self: (_ for _ in ()).throw(RuntimeError("killed")))
        make(tmp_path / "torn")
    missing(tmp_path / "torn/store/00002.safetensors")
    assert content(make(tmp_path / "torn")) == whole
    before = stamps(tmp_path / "torn/store")
    grown = make(tmp_path / "torn", num=14)
    assert {name: stamps(grown)[name] for name in before} == before
    assert read(grown, 3, range(14)).cond["path"].shape == (14, 2, *SHAPE)
    for times in ([0.3, 0.6, 1.0], None):
        with pytest.raises(FlowlitError, match=r"already holds other pairs .*times: \[0.1, 0.6, 1.0\] there"):
            make(tmp_path / "torn", num=20, times=times)


def test_a_changed_bit_of_a_state_is_found(tmp_path):
    folder = make(tmp_path)
    path = folder / "00000.safetensors"
    data = bytearray(path.read_bytes())
    place = data.index(read(folder, 3).cond["path"][0, 0].numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(FlowlitError, match="its checksum is not that of the manifest"):
        read(folder, 3)
    assert not next(check for check in verify(folder, quiet=True) if check.name == "files").good


def test_states_that_are_not_finite_are_found(tmp_path):
    folder = make(tmp_path)
    edit_shard(folder / "00000.safetensors", lambda arrays: arrays["path"].fill(math.nan))
    assert not next(check for check in verify(folder, quiet=True) if check.name == "values").good


def test_verify_info_and_merge_know_states(store, tmp_path):
    assert all(check.good for check in verify(store, quiet=True) if check.name != "range of x1")
    assert "3, x1 among them" in describe(store, read_manifest(store))
    other = make(tmp_path / "other", seed=9)
    merge([store, other], tmp_path / "merged", flowlit="0")
    both = read(tmp_path / "merged", 3, range(24)).cond["path"]
    assert torch.equal(both, torch.cat([read(folder, 3).cond["path"] for folder in (store, other)]))
    with pytest.raises(FlowlitError, match="holds other pairs than"):
        merge([store, make(tmp_path / "pairs", seed=8, times=None)], tmp_path / "none", flowlit="0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.6, 0.1, 1.0]}, "times are"),
        ({"times": [0.1, 0.6, 0.9]}, "times are"),
        ({"times": [0.0, 0.6, 1.0]}, "times are"),
        ({"times": [1.0]}, "times"),
        ({"times": None}, "differ in whether there are states"),
        ({"times": [0.1, 0.3, 0.6, 1.0]}, "bytes|path is"),
    ],
    ids=named,
)
def test_a_manifest_whose_times_do_not_fit_is_refused(change, message, store, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name, data in content(store).items():
        (folder / name).write_bytes(data)
    edit_manifest(folder, lambda manifest: manifest.update(change))
    with pytest.raises(FlowlitError, match=message):
        read(folder, 2)


def test_a_shard_without_its_states_is_refused(tmp_path):
    folder = make(tmp_path)
    edit_shard(folder / "00000.safetensors", lambda arrays: arrays.pop("path"))
    with pytest.raises(FlowlitError, match=r"00000.safetensors|bytes"):
        read(folder, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"times": [0.6, 0.1, 1.0]}, "times are 0.6, 0.1, 1; expected"),
        ({"times": [0.1, 0.6]}, "increase from above 0 to 1"),
        ({"times": []}, "increase from above 0 to 1"),
        ({"times": [0.2, 1.0]}, r"times are 0.2, 1, but those of Heun are 0.1, 0.3, 0.6, 1; choose"),
        ({"times": [0.6, 0.6005, 1.0]}, "choose among them"),
        ({"solver": RK45()}, "RK45 has no grid of times"),
        ({"origin": "data"}, "--origin data has no states between its ends"),
    ],
    ids=named,
)
def test_times_that_no_solver_has_are_refused_before_anything_is_written(words, message, tmp_path):
    with pytest.raises(FlowlitError, match=message):
        make(tmp_path, **words)
    assert not (tmp_path / "store").exists()


def test_solvers_of_several_steps_are_looked_at_too(tmp_path):
    pair = read(make(tmp_path, Adams(4, grid=Given(GRID))), 3)
    assert bool(torch.isfinite(pair.cond["path"]).all())


@pytest.mark.parametrize("x1", ["float32", "float16"])
def test_a_trajectory_needs_what_its_shard_grows_by(x1, tmp_path):
    folder = make(tmp_path, x1=x1)
    size = sum(entry["bytes"] for entry in read_manifest(folder)["shards"])
    options = CoupleOptions(x0="float32", x1=x1, times=[0.1, 0.6, 1.0])
    needed = 12 * options.pair_bytes(FromNoise(SeededNoise(SHAPE, 8)))
    assert needed < size < needed + 3 * 1500


# rounding


def test_rounded_states_are_warned_of_with_what_that_changes(store, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "flowlit"):
        exact = read(store, 3)
        assert not caplog.records
        folder = make(tmp_path, x0="float16", x1="float16")
        StoredPairs([folder])
        caplog.clear()
        rough = read(folder, 3)
        read(folder, 1)
    (record,) = caplog.records
    assert "stored as float16" in record.getMessage() and "--x1 float32" in record.getMessage()
    figure = record.args[-1]

    def slopes(pair):
        return (pair.cond["path"][:, 0] - pair.x0) / 0.1

    error = float((slopes(rough) - slopes(exact)).square().mean().sqrt())
    assert 0.5 * figure < error < 1.1 * figure, "it is the error of the shortest span"
