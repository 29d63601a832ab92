"""Hostile checkpoints: names that are no files, torn files, facts that lie, tensors that are no weights."""

import json
import os
import pickle
import zipfile

import torch
from commandline import REPOSITORY
from safetensors.torch import save_file
from torch import nn

import flowlit
from flowlit.networks import pretrained
from flowlit.networks.checkpoints.read import read_checkpoint, read_contents
from flowlit.networks.checkpoints.tensors import hash_parts
from flowlit.networks.checkpoints.write import write_state

from .row import Row

GOOD = REPOSITORY / "tests/golden/before_move/teacher/checkpoints/last.ckpt"


def put(*keys):
    """Return a change of a checkpoint: the last of the keys becomes what stands before it."""
    *path, name, value = keys

    def change(content):
        for key in path:
            content = content[key]
        content.pop(name) if value is MISSING else content.update({name: value})

    return change


MISSING = object()
FIT = ("loops", "fit_loop")
MOMENTS = ("optimizer_states", 0)
HEAD = "network.head.bias"
LIES = {
    "global_step": [put("global_step", value) for value in (MISSING, None, "4", -1, 4.0, True, [4], 5)],
    "epoch": [put("epoch", value) for value in (MISSING, None, "a", -1, 0.5, True)],
    "pytorch-lightning_version": [
        put("pytorch-lightning_version", value) for value in (MISSING, None, "", "new", 2.6, [2])
    ],
    "weights only": [put("loops", MISSING), put("optimizer_states", MISSING)],
    "loops": [
        *(put("loops", value) for value in ([], None, {}, {"fit_loop": []}, {"fit_loop": {}})),
        put(*FIT, "epoch_progress", MISSING),
        put(*FIT, "epoch_progress", {"total": 3, "current": 3}),
        put(*FIT, "epoch_progress", "current", "ready", "3"),
        put(*FIT, "epoch_loop.batch_progress", "total", "completed", -1),
        put(*FIT, "epoch_loop.batch_progress", "total", None),
        put(*FIT, "epoch_loop.state_dict", {"_batches_that_stepped": "x"}),
        put(*FIT, "validate_first", 3),
    ],
    "optimizer_states": [
        *(put("optimizer_states", value) for value in (None, {}, [3], [{}], [{"state": []}])),
        put(*MOMENTS, "param_groups", 0, "params", MISSING),
        put(*MOMENTS, "param_groups", 0, "params", 7),
        put(*MOMENTS, "param_groups", [3]),
        put(*MOMENTS, "state", 0, [3]),
    ],
    "lr_schedulers": [put("lr_schedulers", value) for value in (None, {}, [3], "none")],
    "callbacks": [put("callbacks", value) for value in (None, [], {3: {}})],
    "hyper_parameters": [put("hyper_parameters", value) for value in (None, [], 3)],
    "state_dict": [put("state_dict", value) for value in (None, [], 3, {3: torch.zeros(1)})],
    "flowlit": [
        *(put("flowlit", value) for value in ([], None, 3)),
        *(put("flowlit", "ema_updates", value) for value in ("many", -1, 1.5, True)),
        *(put("flowlit", "averages", value) for value in ([], {"long": 3}, {"long": {"updates": -1}})),
        put("flowlit", "averages", {"long": {"updates": 7}}),
        put("flowlit", "ema", [1]),
        put("flowlit", "network", "UNet"),
        *(put("flowlit", "sha256", value) for value in (["a"], None, "0" * 64, {"network": None}, {})),
        *(put("flowlit", "version", value) for value in (3, "", "new", "1.x", "99.0", "1.0.dev1")),
    ],
    "averages_waiting": [
        put("averages_waiting", value) for value in ([], {"ema": 3}, {"ema": {"steps": -1, "decay": 2}})
    ],
    "FlowDataModule": [put("FlowDataModule", value) for value in (3, {"rows": "a"}, {"accumulated": 0})],
    "network is not what flowlit wrote": [
        put("state_dict", HEAD, torch.zeros(8)),
        put("state_dict", HEAD, MISSING),
        put("state_dict", "network.more", torch.zeros(1)),
        put("flowlit", "sha256", {"network": "0" * 64}),
    ],
    "optimizers is not what flowlit wrote": [
        put(*MOMENTS, "state", 0, "step", torch.tensor(3.0)),
        put(*MOMENTS, "state", 0, "more", 1),
    ],
}
"""Changes of a checkpoint, by words of the error."""


def _lie(change):
    def attempt(folder):
        content = torch.load(GOOD)
        content["flowlit"]["sha256"] = hash_parts(content)
        change(content)
        torch.save(content, folder / "lie.ckpt")
        return read_checkpoint(folder / "lie.ckpt", resume=True)

    return attempt


ROWS = [
    Row(f"checkpoint: {words}, change {number}", _lie(change), ("lie.ckpt", words))
    for words, changes in LIES.items()
    for number, change in enumerate(changes)
]


def _odd_files(folder):
    (folder / "code.ckpt").write_bytes(pickle.dumps({"state_dict": os.system}))
    torch.save({"state_dict": {}, "code": nn.Linear(1, 1)}, folder / "module.ckpt")
    torch.save([torch.zeros(3)], folder / "list.ckpt")
    torch.save({}, folder / "empty.ckpt")
    os.mkfifo(folder / "pipe.ckpt")
    (folder / "sharded.ckpt").mkdir()
    (folder / "sharded.ckpt/.metadata").write_bytes(b"")
    (folder / "run/checkpoints").mkdir(parents=True)
    (folder / "run/checkpoints/last.ckpt").touch()
    (folder / "loop.ckpt").symlink_to("loop.ckpt")
    (folder / "text.ckpt").write_text("hello")
    (folder / "text.safetensors").write_text("hello")
    (folder / "null.ckpt").touch()
    (folder / "null.safetensors").touch()
    with zipfile.ZipFile(folder / "zip.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hello")


def _named(read, name):
    def attempt(folder):
        _odd_files(folder)
        return read(name.replace("{}", str(folder)) if isinstance(name, str) else name)

    return attempt


NAMES = {
    "": "expected the path of a file",
    None: "expected the path of a file",
    3: "expected the path of a file",
    "{}/run": "is a folder; give a file in it: checkpoints/last.ckpt",
    "{}/run/checkpoints": "is a folder; give a file in it: last.ckpt",
    "{}/sharded.ckpt": "dcp_to_torch",
    "{}/pipe.ckpt": "is a pipe or device",
    "file://{}/pipe.ckpt": "is a pipe or device",
    "/dev/zero": "is a pipe or device",
    "https://example.org/c.ckpt": "not on a disk of this machine",
    "s3://bucket/c.ckpt": "not on a disk of this machine",
    "file://elsewhere/c.ckpt": "not on a disk of this machine",
    "file://{}/nothing.ckpt": "does not exist",
    "{}/nothing.ckpt": "does not exist",
    "{}/nothing.safetensors": "does not exist",
    "{}/text.ckpt/c.ckpt": "does not exist",
    "{}/loop.ckpt": "cannot be read",
    "{}/" + "x" * 5000: "cannot be read",
    "{}/a\0b.ckpt": "cannot be read",
    "{}/code.ckpt": "is refused",
    "{}/module.ckpt": "would run code",
    "{}/text.ckpt": "is torn",
    "{}/text.safetensors": "is torn",
    "{}/null.ckpt": "is torn",
    "{}/null.safetensors": "is torn",
    "{}/zip.ckpt": "is torn",
    "{}/list.ckpt": "has a list; expected",
    "{}/empty.ckpt": "expected one that flowlit wrote",
}
"""Names of checkpoints, by words of the error; {} is the folder of the files."""

FOLDERS = dict.fromkeys(("{}/run", "{}/run/checkpoints"), "no good checkpoint among 1")
"""Runs, from which ``flowlit.load`` takes the newest good checkpoint."""

ROWS += [
    Row(f"checkpoint: {read.__name__} of {name!r:.60}", _named(read, name), (words,))
    for read, names in ((pretrained, NAMES), (flowlit.load, {**NAMES, **FOLDERS}))
    for name, words in names.items()
]


ROWS += [
    Row("checkpoint: a run in safetensors", _named(read_checkpoint, "{}/text.safetensors"), ("weights only",))
]


def _torn(ending, change):
    def attempt(folder):
        path = folder / f"torn.{ending}"
        if ending == "ckpt":
            path.write_bytes(GOOD.read_bytes())
        else:
            write_state({"a": torch.arange(99.0)}, {"class_path": "x"}, path, {"weights": "ema"})
        path.write_bytes(change(bytearray(path.read_bytes())))
        return read_contents(path).state("ema", path)

    return attempt


def _flipped(place):
    def change(content):
        content[int(place * (len(content) - 1))] ^= 8
        return content

    return change


def _cut(share):
    return lambda content: content[: int(share * len(content))]


ROWS += [
    Row(f"checkpoint: {ending} cut at {share}", _torn(ending, _cut(share)), ("torn.",))
    for ending in ("ckpt", "safetensors")
    for share in (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)
]
ROWS += [
    Row(f"checkpoint: {ending} flipped at {place}", _torn(ending, _flipped(place)), ("torn.",))
    for ending, places in (("ckpt", (0.0, 0.2, 0.4, 0.5, 0.8)), ("safetensors", (0.0, 0.5, 0.7, 0.9, 1.0)))
    for place in places
]

ODD = {
    "int64": lambda value: value.long(),
    "int8": lambda value: value.to(torch.int8),
    "uint16": lambda value: value.to(torch.int16).to(torch.uint16),
    "bool": lambda value: value.bool(),
    "complex64": lambda value: value + 0j,
    "float8": lambda value: value.to(torch.float8_e4m3fn),
    "sparse_coo": lambda value: value.to_sparse(),
    "meta": lambda value: value.to("meta"),
    "(0,)": lambda value: value[:0, 0],
    "(6,)": lambda value: value.flatten(),
    "(2, 3, 1)": lambda value: value[..., None],
    "repeats": lambda value: value[:1, :1].clone().expand(10**9, 10**6),
    "list": lambda value: value.tolist(),
    "not finite": lambda value: value * float("nan"),
    "weight is not finite": lambda value: value + float("inf"),
}
"""Tensors that are no weights, by a word of the error."""


def _odd(change):
    def attempt(folder):
        network = nn.Sequential(nn.Linear(3, 2))
        state = {f"network.{name}": value for name, value in network.state_dict().items()}
        state["network.0.weight"] = change(state["network.0.weight"])
        torch.save({"state_dict": state, "flowlit": {"version": "0.1.0"}}, folder / "odd.ckpt")
        return pretrained(str(folder / "odd.ckpt"), "raw", network)

    return attempt


ROWS += [
    Row(f"checkpoint: weights that are {words}", _odd(change), ("odd.ckpt", "0.weight", words))
    for words, change in ODD.items()
]


def _own(changes, sha256=None):
    def attempt(folder):
        content = torch.load(GOOD)
        content["state_dict"] |= changes
        content["flowlit"]["sha256"] = hash_parts(content) if sha256 is None else sha256
        torch.save(content, folder / "own.ckpt")
        return read_contents(folder / "own.ckpt").state("raw", folder / "own.ckpt")

    return attempt


def _safetensors(state, sha256=None):
    def attempt(folder):
        write_state(state, {"class_path": "x"}, folder / "own.safetensors", {"weights": "ema"})
        if sha256 is not None:
            facts = {"version": "0.1.0", "network": {"class_path": "x"}, "weights": "ema", "sha256": sha256}
            save_file(state, folder / "own.safetensors", {"flowlit": json.dumps(facts)})
        return read_contents(folder / "own.safetensors").state("ema", folder / "own.safetensors")

    return attempt


def _others(content):
    def attempt(folder):
        torch.save(content, folder / "others.pth")
        return read_contents(folder / "others.pth").state("raw", folder / "others.pth")

    return attempt


REAL = torch.zeros(2, 3)
COMPLEX = {
    str(dtype).removeprefix("torch."): torch.zeros(2, 3, dtype=dtype)
    for dtype in (torch.complex64, torch.complex128)
}
ROWS += [
    *(
        Row(f"checkpoint: {kind} in {place}", attempt, (kind, "expected a dense tensor of numbers"))
        for kind, value in COMPLEX.items()
        for place, attempt in {
            "a checkpoint": _own({HEAD: value}),
            "an average": _own({"ema.head.bias": value, HEAD: value}),
            "a tensor too many": _own({"network.more": value}),
            "plain weights": _others({"a.weight": REAL, "b.weight": value}),
            "plain weights of an average": _others({"net": {"a.weight": REAL}, "ema": {"a.weight": value}}),
            "a model": _others({"model": {"a.weight": value}, "ema": {"shadow_params": [REAL]}}),
        }.items()
    ),
    Row("checkpoint: complex64 in safetensors", _safetensors({"a": COMPLEX["complex64"]}), ("own.",)),
    *(
        Row(f"checkpoint: hashes {value!r:.30} in {place}", attempt, ("sha256",))
        for value in ({}, [], 3, {"network": 3}, {3: "0"})
        for place, attempt in {
            "a checkpoint": _own({}, value),
            "safetensors": _safetensors({"a": REAL}, value),
        }.items()
        if not (value == {3: "0"} and place == "safetensors")  # JSON has no such key
    ),
    *(
        Row(f"checkpoint: hashes {value!r:.30}", _own({}, value), ("is not what flowlit wrote",))
        for value in ({"ema": "0" * 64}, {"network": ""}, {"": ""}, {"optimizers": "0" * 64})
    ),
]
