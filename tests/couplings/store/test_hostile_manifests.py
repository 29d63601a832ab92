"""Whatever one reader of stores accepts, all accept: any manifest, any shard."""

import json
import shutil

import pytest
import stores
from commandline import REPOSITORY
from hostile_bytes import (
    VALUES,
    altered,
    as_json,
    bounded,
    ends_well,
    memory_limit,
    mutated,
    places,
    replaced,
    without,
)
from hypothesis import given, settings
from suspects import fill

from flowlit.couplings import Cached
from flowlit.couplings.store.exporting import export_folder
from flowlit.couplings.store.manifest import IDENTITY, describe, read_manifest
from flowlit.couplings.store.merge import merge
from flowlit.couplings.store.picture import show
from flowlit.couplings.store.schema import MANIFEST
from flowlit.couplings.store.verify import verify
from flowlit.couplings.store.writer import Store
from flowlit.errors import FlowlitError

FORMAL = ("files", "pairs", "indices", "labels", "seed", "values")
"""Checks of ``verify`` that belong to the format; statistics of a few rows say nothing."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("sound") / "pairs", 8, shard_size=4)


@pytest.fixture
def good(store):
    """The manifest of a sound store, to which it comes back."""
    content = (store / "manifest.json").read_bytes()
    yield json.loads(content)
    (store / "manifest.json").write_bytes(content)


def info(folder):
    manifest = read_manifest(folder)
    json.dumps(manifest, indent=1).encode()
    return describe(folder, manifest).encode()


def grow(folder, good):
    store = Store(folder)
    with store.writing():
        store.begin(
            {**{key: good[key] for key in IDENTITY}, "seeds": good["seeds"]}, store.counts(8), stores.REMARKS
        )
        return store.missing() or store.finish()


def check(folder):
    wrong = [check.name for check in verify(folder, quiet=True) if not check.good and check.name in FORMAL]
    if wrong:
        raise FlowlitError(", ".join(wrong))


def train(folder, checksums=True):
    pairs = Cached(str(folder), checksums=checksums).dataset()
    return pairs.__getitems__(range(len(pairs)))


def put(write, folder, name):
    try:
        return write(folder, folder / name)
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


READERS = {
    "verify": check,
    "training": train,
    "training without checksums": lambda folder: train(folder, checksums=False),
    "merge": lambda folder: put(lambda store, into: merge([store], into), folder, "merged"),
    "export": lambda folder: put(export_folder, folder, "exported"),
}
"""Readers of manifests and shards."""


def refused(read):
    """Return whether a reader refuses, in one short line."""
    try:
        read()
    except FlowlitError as error:
        assert 0 < len(str(error)) < 1500 and "\n" not in str(error), str(error)
        return True
    return False


FIELDS = [
    *(
        "format",
        "version",
        "direction",
        "origin",
        "shape",
        "x0",
        "x1",
        "labels",
        "noise",
        "images",
        "teacher",
    ),
    *("solver", "shard_size", "seeds", "counts", "shards", "complete", "flowlit", "count", "nfe", "range"),
    *("rounding", "codec", "conditions"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_what_one_reader_accepts_all_accept(field, store, good):
    """A fact of the manifest is replaced by each hostile value, at every depth, and left out."""
    value = {field: good.get(field)}
    anywhere = [place for place in places(value) if place and 1 not in place[:2]]
    entries = [(place, by) for place in anywhere for by in (VALUES if len(place) < 3 else VALUES[::4])]
    changed = [replaced(value, place, by) for place, by in entries]
    changed += [without(value, place) for place in dict(entries)]
    for change in changed:
        others = {key: fact for key, fact in good.items() if key != field}
        (store / "manifest.json").write_bytes(as_json({**others, **change}))
        answers = {name: refused(lambda read=read: read(store)) for name, read in READERS.items()}
        assert len(set(answers.values())) == 1, (change, answers)
        if refused(lambda: info(store)):
            assert all(answers.values()), (change, answers)
            assert refused(lambda: grow(store, good)), change
        else:
            ends_well(lambda: grow(store, good))


CONTRADICTIONS = {
    "counts that fall": {"counts": [8, 4]},
    "counts without end": {"counts": [10**12]},
    "counts and files without end": {"counts": [10**15], "shard_size": 10**14},
    "one row a file": {"counts": [10**9], "shard_size": 1},
    "another count": {"count": 9},
    "a shape that is not in the files": {"shape": [1, 16, 16]},
    "a shape beyond all files": {"shape": [1 << 20, 1 << 20, 1 << 20]},
    "classes that the rows exceed": {"labels": {"num_classes": 3, "law": "balanced"}},
    "conditions that are missing": {"conditions": {"lr": ["float32", [1, 4, 4]]}},
    "seeds of others": {"seeds": [5]},
    "noise from a seed, which is stored": {"x0": "seed"},
    "another dtype": {"x1": "uint8"},
    "fewer files than it lists": {"counts": [4], "count": 4},
    "no files": {"shards": []},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_manifest_that_contradicts_its_files_is_refused_by_all(name, store, good):
    manifest = {**good, **CONTRADICTIONS[name]}
    (store / "manifest.json").write_bytes(as_json(manifest))
    with memory_limit(2000):
        assert all(refused(lambda read=read: read(store)) for read in READERS.values())
        assert refused(lambda: show(store, store / "show.png"))


def entry(**changes):
    return lambda entries: [{**entries[0], **changes}, entries[1]]


NAMES = ("/etc/passwd", "../00000.safetensors", "a/00000.safetensors", "0.safetensors", "")
NAMES += ("00000.safetensors\n", "00000.SAFETENSORS", "00002.safetensors", "٠٠٠٠٠.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        *(entry(file=name) for name in NAMES),
        *(entry(rows=rows) for rows in (0, -4, 3, 5, 10**12, 2**70)),
        *(entry(index=index) for index in ([-4, -1], [4, 7], [0, 0], [3, 0], [0, 2**70], [0], [], "03")),
        *(entry(sha256=text) for text in ("A" * 64, "", "0" * 63, "0" * 65)),
        *(entry(bytes=size) for size in (0, 1, 10**15, -1)),
        *(entry(seed=seed) for seed in (1, -1, 2**128)),
        lambda entries: [entries[0], entries[0]],
        lambda entries: [*entries, entries[1]],
        lambda entries: entries * 1000,
        lambda entries: entries[:1],
        lambda entries: [entries[0], {**entries[0], "file": entries[1]["file"]}],
    ],
)
def test_a_shard_that_is_listed_wrongly_is_refused_by_all(change, store, good):
    (store / "manifest.json").write_bytes(as_json({**good, "shards": change(good["shards"])}))
    assert all(refused(lambda read=read: read(store)) for read in READERS.values())


OLD = json.loads((REPOSITORY / "tests/golden/before_move/couplings/manifest.json").read_text())


@given(altered(OLD))
@bounded
def test_any_manifest_gives_facts_or_one_clear_error(manifest):
    assert MANIFEST.check(OLD, "file").count == 8
    ends_well(lambda: MANIFEST.parse(as_json(manifest), "file"))


@given(mutated(as_json(OLD)))
@bounded
def test_any_bytes_of_a_manifest_give_facts_or_one_clear_error(data):
    ends_well(lambda: MANIFEST.parse(data, "file"))


def header_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content, length, json.loads(content[8 : 8 + length])


def test_any_bytes_of_a_shard_give_pairs_or_one_clear_error(store, good):
    """Without checksums, so that every byte is looked at by the reader itself."""
    path = store / good["shards"][0]["file"]
    whole, length, header = header_of(path)

    @given(mutated(whole))
    @settings(bounded, max_examples=60)
    def of_bytes(data):
        path.write_bytes(data)
        ends_well(lambda: train(store, checksums=False))
        ends_well(lambda: check(store))

    @given(altered(header))
    @settings(bounded, max_examples=60)
    def of_headers(header):
        text = as_json(header)
        path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        ends_well(lambda: train(store, checksums=False))
        ends_well(lambda: READERS["merge"](store))

    try:
        of_bytes()
        of_headers()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("size", [8, 1 << 20, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_header_of_any_length_is_read_in_bounded_memory(store, good, size):
    path = store / good["shards"][0]["file"]
    whole = path.read_bytes()
    try:
        with open(path, "r+b") as file:
            file.write(size.to_bytes(8, "little"))
            file.truncate(1 << 41)  # sparse
        with memory_limit(300):
            assert refused(lambda: train(store, checksums=False))
    finally:
        path.write_bytes(whole)
