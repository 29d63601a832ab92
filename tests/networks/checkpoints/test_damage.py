"""Damaged files of weights: what is read is what was written, or nothing is."""

import logging
import zipfile

import pytest
import torch
from hostile_bytes import bounded, ends_well, mutated
from hypothesis import given
from hypothesis import strategies as st
from tools import LinearField, tiny_unet, write_checkpoint
from torch import nn

from flowlit.errors import FlowlitError
from flowlit.networks import pretrained
from flowlit.networks.checkpoints.archive import check_archive
from flowlit.networks.checkpoints.fingerprint import fingerprint, hash_state
from flowlit.networks.checkpoints.read import read_checkpoint, read_contents
from flowlit.networks.checkpoints.tensors import hash_parts
from flowlit.networks.checkpoints.write import write_safetensors, write_state

STEP = 7
"""Every so many bytes one is flipped; the first and the last ones all are."""


def small(path):
    """A checkpoint of a few kilobytes."""
    return write_checkpoint(path, LinearField(a=0.7), network={"class_path": "tools.LinearField"})


def places(size):
    edges = 400
    return [
        *range(min(edges, size)),
        *range(edges, size - edges, STEP),
        *range(max(edges, size - edges), size),
    ]


def everything(path):
    contents = read_contents(path)
    return {kind: hash_state(contents.state(kind, path)) for kind in contents.states}, contents.facts


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_flipped_byte_is_refused_or_changes_nothing(ending, tmp_path, monkeypatch):
    path = tmp_path / f"c.{ending}"
    if ending == "ckpt":
        small(path)
    else:
        write_state(LinearField(a=0.7).state_dict(), {"class_path": "x"}, path, {"weights": "raw", "step": 3})
    monkeypatch.setattr(logging.getLogger("flowlit"), "disabled", True)
    good = path.read_bytes()
    before = everything(path)
    harmless = 0
    for place in places(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        try:
            after = everything(path)
        except FlowlitError as error:
            assert str(path) in str(error)
            continue
        facts = {name: value for name, value in after[1].items() if name in before[1]}
        assert (after[0], facts) == before, place  # without the field that was named sha256
        harmless += 1
    assert harmless < 0.6 * len(places(len(good)))  # PyTorch pads, and writes most names and sizes twice


@given(mutated(b"PK\x03\x04" + bytes(range(256))))
@bounded
def test_any_bytes_are_refused_in_one_line(tmp_path, data):
    path = tmp_path / "c.ckpt"
    path.write_bytes(data)
    assert "c.ckpt" in ends_well(lambda: read_contents(path))
    path = tmp_path / "c.safetensors"
    path.write_bytes(data)
    assert "c.safetensors" in ends_well(lambda: read_contents(path))


def rewritten(source, target, change=lambda name, content: content, compression=zipfile.ZIP_STORED):
    """Write an archive once more, with checksums that agree with what it then holds."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_an_archive_with_correct_checksums_must_hold_what_its_pickle_claims(tmp_path):
    small(tmp_path / "c.ckpt")
    rewritten(tmp_path / "c.ckpt", tmp_path / "d.ckpt")
    check_archive(tmp_path / "d.ckpt")

    def cut(name, content):
        return content[:-1] if "/data/" in name else content

    rewritten(tmp_path / "c.ckpt", tmp_path / "short.ckpt", cut)
    with pytest.raises(FlowlitError, match=r"short.ckpt is corrupt \(data/0 has 3 bytes, its tensor 4\)"):
        pretrained(str(tmp_path / "short.ckpt"), "raw")
    rewritten(tmp_path / "c.ckpt", tmp_path / "zipped.ckpt", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FlowlitError, match=r"zipped.ckpt is corrupt \(.* is compressed"):
        pretrained(str(tmp_path / "zipped.ckpt"), "raw")


@given(place=st.integers(0, 10**6), by=st.binary(max_size=4), gap=st.integers(0, 4))
@bounded
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_of_any_bytes_with_correct_checksums_is_one_clear_error(tmp_path, place, by, gap):
    small(tmp_path / "c.ckpt")

    def mutated_pickle(name, content):
        at = place % len(content)
        return content[:at] + by + content[at + gap :] if name.endswith("data.pkl") else content

    path = tmp_path / "d.ckpt"
    rewritten(tmp_path / "c.ckpt", path, mutated_pickle)
    ends_well(lambda: everything(path) and "read")
    ends_well(lambda: pretrained(str(path), "raw", LinearField()) and "read")
    ends_well(lambda: read_checkpoint(path, resume=True) and "read")


def test_weights_that_another_program_changed_are_refused(tmp_path):
    network = tiny_unet()
    path = write_checkpoint(tmp_path / "c.ckpt", network)
    content = torch.load(path)
    content["flowlit"]["sha256"] = hash_parts(content)
    assert content["flowlit"]["sha256"]["network"] == fingerprint(network)
    torch.save(content, path)
    assert fingerprint(pretrained(path, "raw")) == fingerprint(network)
    next(iter(content["state_dict"].values()))[0] += 1
    torch.save(content, path)
    with pytest.raises(FlowlitError, match="raw is not what flowlit wrote"):
        pretrained(path, "raw")


def test_files_without_checksums_are_read_with_a_word(tmp_path, caplog):
    content = torch.load(write_checkpoint(tmp_path / "c.ckpt", tiny_unet()))
    torch.save(content, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with caplog.at_level("WARNING", "flowlit"):
        pretrained(str(tmp_path / "old.ckpt"), "raw")
    assert "old.ckpt has no checksums" in caplog.text


def test_facts_of_safetensors_belong_to_their_tensors(tmp_path):
    path = tmp_path / "c.safetensors"
    write_safetensors(tiny_unet(), path, {"weights": "raw", "step": 1234})
    path.write_bytes(path.read_bytes().replace(b"1234", b"1235"))
    with pytest.raises(FlowlitError, match="is not what flowlit wrote"):
        pretrained(str(path), "raw")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_precision_are_read(dtype, tmp_path):
    path = write_checkpoint(tmp_path / "c.ckpt", nn.Linear(3, 2).to(dtype))
    assert pretrained(path, "raw", nn.Linear(3, 2)).weight.dtype == torch.float32
