"""Stores of pairs with prompts: each prompt is encoded once and stored once, and pairs have its number."""

import json
import shutil

import pytest
import tiny
import torch
from texts import Hashed, Reader

from flowlit.couplings import Cached, Independent, Mixed, PromptedNoise, SeededNoise
from flowlit.couplings.store import text as stored_text
from flowlit.couplings.store import text_writer
from flowlit.couplings.store.manifest import read_manifest
from flowlit.couplings.store.merge import merge
from flowlit.couplings.store.reader import StoredPairs
from flowlit.couplings.store.text import StoredText
from flowlit.couplings.store.verify import verify
from flowlit.data import Digits, Prompts
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Euler

SHAPE = (1, 8, 8)
TEXTS = [f"prompt {k}" for k in range(7)]
CPU = torch.device("cpu")


def make(root, num=12, texts=TEXTS, encoder=None, name="store", seed=6, **words):
    """Run `couple` in Python."""
    encoder = encoder or Hashed()
    noise = PromptedNoise(SHAPE, 8, Prompts(texts=list(texts)), encoder)
    data = FlowDataModule(Independent(Digits(limit=4)), noise=noise)
    model = FlowModule(Reader(), RectifiedFlow(), solvers={"euler2": Euler(2)})
    size = {"num": num, "shard_size": 5, "batch_size": 3, "x0": "seed", "x1": "float32", **words}
    tiny.trainer(root, 1).couple(model, data, store=str(root / name), seed=seed, **size)
    return root / name


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
    }


def test_pairs_have_the_text_that_they_were_made_with(tmp_path):
    encoder = Hashed()
    store = make(tmp_path, encoder=encoder)
    pairs = StoredPairs([store])
    rows = pairs.__getitems__(range(12))
    expected = Hashed()([TEXTS[i % 7] for i in range(12)])
    assert rows.cond.keys() == {"text"} and torch.equal(rows.cond["text"], expected)
    with torch.no_grad():
        x1 = Euler(2)(Reader(), rows.x0, {"text": expected}).x1
    torch.testing.assert_close(rows.x1, x1, atol=1e-6, rtol=0)
    assert sorted(encoder.encoded) == sorted([*TEXTS, ""]), "each of them once"
    assert pairs.conditions == {"text": ("float32", (4, 6))}
    manifest = read_manifest(store)
    assert manifest["conditions"] == {"prompt": ["int64", []]}
    assert manifest["noise"]["prompts"]["number"] == 7
    assert all(check.good for check in verify(store)), verify(store)
    assert StoredText(store, manifest).texts() == TEXTS
    assert torch.equal(pairs[3].cond["text"], expected[3])


def test_a_store_that_was_stopped_or_grows_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(text_writer, "ROWS", 2)
    whole = make(tmp_path / "a", 4)
    make(tmp_path / "a", 12)
    after = content(whole)
    parts = {name for name in after if name.startswith("text/0")}
    assert parts == {f"text/0000{k}.safetensors" for k in range(4)}, "2, 2, 2 and 1 prompts"
    store = make(tmp_path / "b", 4)
    make(tmp_path / "b", 12)
    (store / "text/00001.safetensors").write_bytes(b"cut")
    (store / "text/text.json").unlink()
    (store / "00001.safetensors").unlink()
    (store / "manifest.json").write_text(json.dumps({**read_manifest(store), "complete": False}, indent=1))
    encoder = Hashed()
    make(tmp_path / "b", 12, encoder=encoder)
    assert content(store) == after
    assert set(encoder.encoded) == {TEXTS[0], *TEXTS[2:4]}, "only what was lost, and one for its shape"


def test_a_damaged_file_is_encoded_again_when_a_store_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(text_writer, "ROWS", 2)
    store = make(tmp_path, 4)
    for name in ("00000.safetensors", "null.safetensors"):
        file = store / "text" / name
        sound = file.read_bytes()
        file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        make(tmp_path, 12)
        assert file.read_bytes() == sound, "and its checksum is not that of the damage"


def test_other_prompts_and_other_encoders_are_other_pairs(tmp_path):
    make(tmp_path)
    for change in ({"texts": TEXTS[:6]}, {"encoder": Hashed(1)}, {"encoder": Hashed(precision="bf16")}):
        with pytest.raises(FlowlitError, match=r"already holds other pairs .*noise"):
            make(tmp_path, **change)


def test_half_as_many_bytes_in_bf16_and_more_than_memory_are_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(text_writer, "ROWS", 3)
    store = make(tmp_path, encoder=Hashed(precision="bf16"))
    expected = StoredPairs([store]).__getitems__([11, 0, 5, 0]).cond["text"]
    monkeypatch.setattr(stored_text, "IN_MEMORY", 0)
    assert torch.equal(StoredPairs([store]).__getitems__([11, 0, 5, 0]).cond["text"], expected)
    assert torch.equal(expected, Hashed(precision="bf16")([TEXTS[k] for k in (4, 0, 5, 0)]))


def test_cached_pairs_drop_text_by_its_share(tmp_path):
    store = make(tmp_path)
    cached = Cached(str(store), text_dropout=1.0)
    rows = cached.dataset().__getitems__(range(12))
    assert torch.equal(cached.complete(rows, CPU).cond["text"], Hashed().null().expand(12, -1, -1))
    cached = Cached(str(store), resident=True)
    cached.dataset()
    assert torch.equal(cached.complete((torch.arange(12)), CPU).cond["text"], rows.cond["text"])
    with pytest.raises(FlowlitError, match="have a text_dropout, which parts cannot"):
        Mixed([Cached(str(store), text_dropout=0.1)], [1.0]).dataset()


def test_dropout_without_prompts_is_refused(tmp_path):
    data = FlowDataModule(Independent(Digits(limit=4)), noise=SeededNoise(SHAPE, 8))
    model = FlowModule(tiny.Affine(), RectifiedFlow(), solvers={"euler2": Euler(2)})
    tiny.trainer(tmp_path, 1).couple(model, data, store=str(tmp_path / "store"), num=4)
    assert not (tmp_path / "store" / "text").exists()
    with pytest.raises(FlowlitError, match="have no prompts; leave it out"):
        Cached(str(tmp_path / "store"), text_dropout=0.1).dataset()


def test_stores_of_the_same_prompts_are_read_and_merged_as_one(tmp_path):
    first = make(tmp_path, 4)
    second = make(tmp_path, 12, name="second", seed=7)
    both = StoredPairs([first, second])
    text = both.__getitems__(range(16)).cond["text"]
    merge([first, second], tmp_path / "merged", flowlit="0")
    merged = StoredPairs([tmp_path / "merged"])
    assert torch.equal(merged.__getitems__(range(16)).cond["text"], text)
    assert all(check.good for check in verify(tmp_path / "merged"))
    short = [make(tmp_path, 3, name=f"short{seed}", seed=seed) for seed in (8, 9)]
    merge(short, tmp_path / "short", flowlit="0")
    assert len(StoredPairs([tmp_path / "short"])) == 6, "which have three prompts each"
    fewer = StoredPairs([tmp_path / "short", make(tmp_path, 4, name="four", seed=11)])
    assert torch.equal(fewer[9].cond["text"], Hashed()([TEXTS[3]])[0]), "though it has fewer pairs"
    other = make(tmp_path, name="other", texts=TEXTS[:3], seed=10)
    with pytest.raises(FlowlitError, match="holds other pairs than"):
        StoredPairs([first, other])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: shutil.rmtree(text),
        lambda text: (text / "00000.safetensors").unlink(),
        lambda text: (text / "null.safetensors").write_bytes(b"x"),
        lambda text: (text / "text.json").write_text("{"),
        lambda text: (text / "00000.safetensors").write_bytes(
            (text / "00000.safetensors").read_bytes()[:-1] + b"\1"
        ),
    ],
    ids=["no folder", "no file", "other bytes", "torn description", "one byte"],
)
def test_damaged_text_is_refused_in_one_line(tmp_path, damage):
    store = make(tmp_path)
    damage(store / "text")
    with pytest.raises(FlowlitError) as refused:
        pairs = StoredPairs([store])
        pairs[0]
        pairs.text.null()
    assert "\n" not in str(refused.value)
    assert [check.name for check in verify(store) if not check.good] == ["prompts"]


def test_texts_of_another_store_are_refused(tmp_path):
    store = make(tmp_path)
    other = make(tmp_path, name="other", texts=TEXTS[::-1])
    shutil.rmtree(store / "text")
    shutil.copytree(other / "text", store / "text")
    with pytest.raises(FlowlitError, match="has other prompts than the manifest says; make the couplings"):
        StoredPairs([store])
    assert [check.name for check in verify(store) if not check.good] == ["prompts"]


def test_parts_of_a_mixture_have_one_encoder(tmp_path):
    parts = [make(tmp_path, name=f"encoder{seed}", encoder=Hashed(seed), seed=seed) for seed in (0, 1)]
    with pytest.raises(FlowlitError, match=r"texts of another encoder than .*data\.noise\.encoder"):
        Mixed([Cached(str(part)) for part in parts], [1.0, 1.0]).dataset()
    again = make(tmp_path, name="again", seed=2)
    assert len(Mixed([Cached(str(part)) for part in (parts[0], again)], [1.0, 1.0]).dataset()) == 24


def test_pairs_with_the_prompts_of_others_are_refused(tmp_path):
    store = make(tmp_path)
    manifest = read_manifest(store)
    manifest["noise"]["prompts"]["number"] = 6
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FlowlitError, match="its prompts are not those of its indices"):
        StoredPairs([store])[6]
    manifest["noise"]["prompts"]["number"] = 0
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FlowlitError, match=r"manifest\.json"):
        StoredPairs([store])


def test_a_pair_of_a_prompt_that_is_none_is_found(tmp_path):
    store = make(tmp_path)
    stored = StoredText(store, read_manifest(store))
    with pytest.raises(FlowlitError, match="a pair has a prompt that is none of its 7"):
        stored.rows(torch.tensor([7]))


def test_some_prompts_alone_are_read_for_one_of_several_students(tmp_path):
    store = make(tmp_path, 20)
    everything = StoredPairs([store])
    wanted = [i for i in range(18) if i % 7 in (2, 5)]
    some = StoredPairs([store], limit=18, only=[5, 2])
    assert len(some) == len(wanted) == 5
    found = some.__getitems__(range(5))
    expected = everything.__getitems__(wanted)
    assert torch.equal(found.x1, expected.x1) and torch.equal(found.cond["text"], expected.cond["text"])
    coupling = Cached(str(store), only=[1])
    assert len(coupling.dataset()) == 3
    with pytest.raises(FlowlitError, match=r"only is \[9\]; expected some of its classes"):
        StoredPairs([store], only=[9])
