"""Pickles of checkpoints that are small, and take ages to read."""

import pickle
import zipfile

import torch
from torch import nn

from flowlit.networks import pretrained
from flowlit.networks.checkpoints.archive import outline
from flowlit.networks.checkpoints.read import read_checkpoint, read_contents
from flowlit.networks.checkpoints.spec import build

from .row import Row


def _tower(height, top):
    """Return a pickle with a tuple of two references to a tuple of two references …, and an end."""
    levels = (b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(height))
    return b"\x80\x02K\x01\x85q\x00" + b"".join(levels) + top


TOWERS = {
    "a key": _tower(60, b"}h\x3cK\x01s."),
    "keys": _tower(60, b"}(h\x3cK\x01h\x3bK\x01u."),
    "a key of a mapping made at once": _tower(60, b"(h\x3cK\x01d."),
    "a member of a set": _tower(60, b"\x8f(h\x3c\x90."),
    "a member of a frozen set": _tower(60, b"(h\x3c\x91."),
    "a member of a set that is called": _tower(60, b"cbuiltins\nset\n]h\x3ca\x85R."),
    "a key of an ordered mapping": _tower(60, b"ccollections\nOrderedDict\n]h\x3cK\x01\x86a\x85R."),
}
"""Pickles whose keys take 2^60 steps to hash, by where the tuple stands."""


def _pickle(read, content, archive):
    def attempt(folder):
        path = folder / "tower.ckpt"
        if archive:
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", content)
                file.writestr("archive/version", "3\n")
        else:
            torch.save({}, path, _use_new_zipfile_serialization=False)
            with open(path, "rb") as file:
                head = [pickle.load(file) for _ in range(3)]
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + content)
        return read(path)

    return attempt


ROWS = [
    Row(f"checkpoint: {where}, {read.__name__} {archive}", _pickle(read, content, archive), ("tower.ckpt",))
    for where, content in TOWERS.items()
    for read, archive in ((outline, True), (read_contents, True), (read_contents, False))
]

BIG = torch.zeros(1).expand(10**12)
ADAM = {"state": {0: {"exp_avg": BIG}}, "param_groups": []}
TENSORS = {
    "optimizers of a number": ("optimizer_states", {"optimizer_states": 5}),
    "optimizers of numbers": ("optimizer_states", {"optimizer_states": [1]}),
    "a moment of 4 TB": ("exp_avg", {"optimizer_states": [ADAM]}),
    "a state of 4 TB": ("_extra_state", {"state_dict": {"network._extra_state": BIG}}),
    "weights that are conjugates": (
        "complex64",
        {"state_dict": {"network.a": torch.zeros(2).to(torch.cfloat).conj()}},
    ),
    "weights that are negatives": (
        "SHA",
        {"state_dict": {"network.a": torch.zeros(2).to(torch.cfloat).conj().imag}},
    ),
    "too many names": (
        "33 tensors",
        {"state_dict": dict.fromkeys(map("network.{}".format, range(33)), torch.ones(9))},
    ),
    "no weights of a part with a hash": ("network is not", {"state_dict": {}}),
    "a step that no run has": ("global_step", {"global_step": 1 << 62}),
}
"""Contents of a checkpoint with a hash, by what they have, with a word of the error."""


def _shared(levels):
    """Return a mapping of twice the same mapping of twice the same mapping …."""
    content = {}
    for _ in range(levels):
        content = {"a": content, "b": content}
    return content


TENSORS["hyperparameters of a million mappings"] = ("there again", {"hyper_parameters": _shared(20)})


def _hashed(changes):
    def attempt(folder):
        content = {"state_dict": {"network.a": torch.zeros(2)}, "flowlit": {"sha256": {"network": "0"}}}
        torch.save({**content, **changes}, folder / "hashed.ckpt")
        return read_checkpoint(folder / "hashed.ckpt")

    return attempt


ROWS += [
    Row(f"checkpoint: {name}", _hashed(changes), ("hashed.ckpt", word))
    for name, (word, changes) in TENSORS.items()
]

LARGE = {
    "wide": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 10**12}},
    "wide U-Net": {"class_path": "flowlit.networks.UNet", "init_args": {"resolution": 8, "width": 10**6}},
    "deep U-Net": {"class_path": "flowlit.networks.UNet", "init_args": {"resolution": 8, "blocks": 10**6}},
}
"""Descriptions of networks for which no machine has memory."""


def _described(description):
    def attempt(folder):
        content = {"state_dict": {"network.a": torch.zeros(2)}, "flowlit": {"network": description}}
        torch.save(content, folder / "large.ckpt")
        return pretrained(str(folder / "large.ckpt"), "raw")

    return attempt


ROWS += [
    Row(f"checkpoint: a network that is {name}", _described(description), ("cannot build",))
    for name, description in LARGE.items()
]
ROWS += [
    Row(
        "checkpoint: a network that no memory holds",
        lambda folder: build(LARGE["wide"], nn.Module),
        ("cannot build",),
    )
]
