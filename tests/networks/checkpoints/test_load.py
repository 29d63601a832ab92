import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tools import LinearField, randomise, tiny_unet, write_checkpoint

from flowlit.data import Pixels
from flowlit.errors import FlowlitError
from flowlit.networks import SmallClassifier, UNet, fingerprint, pretrained
from flowlit.networks.checkpoints.load import mismatch
from flowlit.networks.checkpoints.read import read_checkpoint
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.solvers import RK2, RK45, Euler, ReNoise
from flowlit.types import Codec, Solver


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_round_trip(weights, tmp_path):
    raw, ema = randomise(tiny_unet(num_classes=3), 1), randomise(tiny_unet(num_classes=3), 2)
    found = pretrained(write_checkpoint(tmp_path / "c.ckpt", raw, ema), weights)
    assert isinstance(found, UNet) and found.num_classes == 3
    assert fingerprint(found) == fingerprint({"raw": raw, "ema": ema}[weights])


@pytest.mark.parametrize(
    "network",
    [SmallClassifier(dim=8), tiny_unet(width=16, multipliers=(1, 1), dropout=0.3)],
    ids=["classifier", "unet"],
)
def test_a_network_is_built_as_it_was(network, tmp_path):
    assert pretrained(write_checkpoint(tmp_path / "c.ckpt", network), "raw").spec == network.spec


def test_a_network_that_the_checkpoint_cannot_describe_is_given(tmp_path):
    path = write_checkpoint(tmp_path / "c.ckpt", LinearField(a=0.7))
    assert pretrained(path, "raw", LinearField()).a.item() == pytest.approx(0.7)
    with pytest.raises(FlowlitError, match="does not tell how its network is built; give it as network"):
        pretrained(path, "raw")


@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_does_not_run(form, tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "evil.ckpt"
    content = {"state_dict": {}, "flowlit": Trap(victim)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(FlowlitError, match=r"evil.ckpt is (refused|torn)"):
        pretrained(str(path), "raw")
    assert not victim.exists()
    if form == "torch":
        torch.load(path, weights_only=False)
        assert victim.exists(), "the trap works"


def test_only_networks_are_built_from_a_description(tmp_path):
    path = write_checkpoint(
        tmp_path / "c.ckpt",
        LinearField(),
        network={"class_path": "subprocess.Popen", "init_args": {"args": "true"}},
    )
    with pytest.raises(
        FlowlitError, match=r"subprocess.Popen, which a checkpoint names, is not a Module; refused"
    ):
        pretrained(path, "raw")


@pytest.mark.parametrize("module", ["this", "antigravity", "strangers.__main__"])
def test_programs_that_a_checkpoint_names_are_never_run(tmp_path, module, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "strangers").mkdir()
    (tmp_path / "strangers/__main__.py").touch()
    path = write_checkpoint(tmp_path / "s.ckpt", LinearField(), network={"class_path": f"{module}.Net"})
    with pytest.raises(FlowlitError, match=f"{module}.Net, which a checkpoint names, is no class"):
        pretrained(path, "raw")
    assert module not in sys.modules


def test_another_architecture_is_told_by_keys_and_shapes(tmp_path):
    path = write_checkpoint(tmp_path / "c.ckpt", tiny_unet())
    with pytest.raises(
        FlowlitError,
        match=r"another architecture than UNet: .*of another shape: .*is \(\d.*\) there, \(\d.*\) here",
    ):
        pretrained(path, "raw", tiny_unet(width=16))
    with pytest.raises(FlowlitError, match=r"1 missing there: label.table.weight"):
        pretrained(path, "raw", tiny_unet(num_classes=2))
    with pytest.raises(FlowlitError, match=r"unknown here: .* …"):
        pretrained(path, "raw", tiny_unet(multipliers=(1,)))


def test_mismatch_of_equals_is_empty():
    assert mismatch(tiny_unet().state_dict(), tiny_unet().state_dict()) == ""


def test_missing_file():
    with pytest.raises(FlowlitError, match=r"checkpoint nowhere.ckpt does not exist; run the stage"):
        pretrained("nowhere.ckpt")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(FlowlitError, match="is a folder; it holds no weights; expected a file"):
        pretrained(str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_torn_file(share, tmp_path):
    path = Path(write_checkpoint(tmp_path / "c.ckpt", tiny_unet()))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FlowlitError, match=r"c.ckpt is torn or not a checkpoint"):
        pretrained(str(path))


@pytest.mark.parametrize("content", ["text", "zip", "tensor", "no state"])
def test_files_of_another_kind(content, tmp_path):
    path = tmp_path / "c.ckpt"
    if content == "text":
        path.write_text("hello, I am not a checkpoint")
    elif content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "hello")
    else:
        torch.save(torch.zeros(3) if content == "tensor" else {"model": {}}, path)
    with pytest.raises(
        FlowlitError, match=r"c.ckpt (is torn or not a checkpoint|is refused|has no state_dict)"
    ):
        read_checkpoint(path)


def test_an_average_that_is_not_there(tmp_path):
    path = write_checkpoint(tmp_path / "c.ckpt", tiny_unet())
    with pytest.raises(FlowlitError, match=r"trained without EMA.*weights: raw"):
        pretrained(path)
    with pytest.raises(FlowlitError, match="weights is 'best'; expected 'ema' or 'raw'"):
        pretrained(path, "best")


@pytest.mark.parametrize(
    "solver", [Euler(3), RK2(4, r=0.3), RK45(1e-3, 1e-4), ReNoise(2, fresh=False)], ids=repr
)
def test_solvers_survive_their_description(solver):
    assert build(spec(solver), Solver) == solver


def test_codecs_survive_their_description():
    assert isinstance(build(spec(Pixels()), Codec), Pixels)


def test_objects_with_a_state_cannot_be_described():
    assert spec(LinearField()) is None


def test_fingerprint_sees_values_names_shapes_and_types():
    prints = {
        fingerprint(randomise(tiny_unet(), 0)),
        fingerprint(randomise(tiny_unet(), 1)),
        fingerprint(tiny_unet(width=16)),
    }
    prints |= {
        fingerprint(randomise(tiny_unet(), 0).half()),
        fingerprint(torch.nn.Linear(2, 2)),
        fingerprint(SmallClassifier(dim=8)),
    }
    assert len(prints) == 6
    assert fingerprint(randomise(tiny_unet(), 0)) in prints
