"""``flowlit convert`` as users type it: every layout there and back, and nothing left behind where it
fails.
"""

import copy
import errno
import io
import json
import os

import pytest
import torch
import yaml
from published import edm_state, randomise, slimflow_checkpoint
from reference.edm_network import DhariwalUNet, SongUNet
from reference.slimflow_network import NCSNpp
from safetensors import safe_open
from safetensors.torch import load_file
from tools import tiny_unet, write_checkpoint
from torch import nn

import flowlit
from flowlit.networks import EDM, UNet, pretrained

SOLVER = {"class_path": "flowlit.solvers.Heun", "init_args": {"steps": 2}}
CODEC = {"class_path": "flowlit.data.Pixels", "init_args": {}}


def ncsnpp():
    return randomise(NCSNpp(16, (1, 2), 1, 32))


def adm():
    return randomise(DhariwalUNet(64, (1, 2), 1, 16, attention_resolutions=(16,), classes=10))


@pytest.fixture
def ours(tmp_path):
    """What ``flowlit fit`` writes, with an average that differs from the raw weights."""
    raw, ema = (randomise(tiny_unet(num_classes=3), seed) for seed in (1, 2))
    write_checkpoint(tmp_path / "last.ckpt", raw, ema, solver=SOLVER, codec=CODEC)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["flowlit"]["ema"] = {"decay": 0.99, "updates": 5}
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.fixture
def theirs(tmp_path):
    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp())
    return tmp_path / "c.pth"


@pytest.fixture
def convert(cli):
    """Convert, and return what was printed."""

    def run(file, into, *words):
        outcome = cli("convert", file, "--into", into, *words)
        assert outcome.code == 0, outcome.err
        assert str(file) in outcome.out and str(into) in outcome.out
        return outcome.out

    return run


def same(found, expected):
    """Equal names, order and bits."""
    assert list(found) == list(expected)
    return all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype
        for name, value in expected.items()
    )


def told_in(file):
    with safe_open(str(file), "pt") as opened:
        return json.loads(opened.metadata()["flowlit"])


def write_yaml(path, description):
    path.write_text(yaml.safe_dump({"vars": {"wide": 16}, "model": {"init_args": {"network": description}}}))
    return path


# there and
# back


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_converted_file_gives_the_same_images(weights, ours, convert, tmp_path):
    convert(ours, tmp_path / "s.safetensors", "--weights", weights)
    expected, found = flowlit.load(str(ours), weights), flowlit.load(str(tmp_path / "s.safetensors"), weights)
    assert found.solver == expected.solver and found.solver.steps == 2
    assert torch.equal(found.sample(5, seed=3), expected.sample(5, seed=3))
    other = flowlit.load(str(ours), {"ema": "raw", "raw": "ema"}[weights])
    assert not torch.equal(found.sample(5, seed=3), other.sample(5, seed=3)), "both sets make the same images"


def test_a_converted_file_tells_where_it_is_from(ours, convert, tmp_path):
    from flowlit._support.files import file_hash

    convert(ours, tmp_path / "s.safetensors")
    told = told_in(tmp_path / "s.safetensors")
    assert (
        told["source"] == {"file": "last.ckpt", "sha256": file_hash(ours)}
        and told["version"] == flowlit.__version__
    )
    assert (
        told["weights"] == "ema"
        and told["ema"]["decay"] == 0.99
        and told["network"] == tiny_unet(num_classes=3).spec
    )


@pytest.mark.parametrize("make", [ncsnpp, adm], ids=["DDPM++", "ADM"])
def test_slimflow_to_slimflow_is_the_same_file(make, convert, tmp_path):
    network = make()
    slimflow_checkpoint(tmp_path / "c.pth", network)
    convert(tmp_path / "c.pth", tmp_path / "d.pth", "--layout", "slimflow")
    expected, found = (torch.load(tmp_path / name, weights_only=True) for name in ("c.pth", "d.pth"))
    for content in (expected, found):
        content["model"].pop("module.sigmas", None)  # noise levels, which flows do not use
    assert list(found) == ["model", "ema", "optimizer", "step"] and found["step"] == expected["step"]
    assert same(found["model"], expected["model"])
    check_average(found["ema"], expected["ema"])


@pytest.mark.parametrize("make", [ncsnpp, adm], ids=["DDPM++", "ADM"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_slimflow_by_way_of_safetensors(weights, make, convert, tmp_path):
    """One set of weights comes back, as both; its names, order and bits, and the average's facts, are those
    of the first file.
    """
    network = make()
    average = slimflow_checkpoint(tmp_path / "c.pth", network)
    convert(tmp_path / "c.pth", tmp_path / "c.safetensors", "--weights", weights)
    convert(tmp_path / "c.safetensors", tmp_path / "d.pth", "--layout", "slimflow", "--weights", weights)
    found = torch.load(tmp_path / "d.pth", weights_only=True)
    values = average if weights == "ema" else [parameter.detach() for parameter in network.parameters()]
    check_average(found["ema"], {"decay": 0.999999, "num_updates": 800_000, "shadow_params": values})
    assert found["step"] == 800_000
    wrapped = (
        nn.DataParallel(copy.deepcopy(network)) if isinstance(network, NCSNpp) else copy.deepcopy(network)
    )
    wrapped.load_state_dict(found["model"], strict=True)
    assert all(torch.equal(a, b) for a, b in zip(wrapped.parameters(), values, strict=True))
    torch.optim.Adam(wrapped.parameters()).load_state_dict(found["optimizer"])


def check_average(found, expected):
    assert {key: found[key] for key in ("decay", "num_updates")} == {
        key: expected[key] for key in ("decay", "num_updates")
    }
    pairs = zip(found["shadow_params"], expected["shadow_params"], strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_an_average_that_tells_nothing_of_itself(convert, tmp_path):
    def change(content):
        content["ema"] = {"shadow_params": content["ema"]["shadow_params"]}
        del content["step"]

    slimflow_checkpoint(tmp_path / "c.pth", ncsnpp(), change=change)
    convert(tmp_path / "c.pth", tmp_path / "d.pth", "--layout", "slimflow")
    found = torch.load(tmp_path / "d.pth", weights_only=True)
    assert found["step"] == 0 and found["ema"]["num_updates"] == 0


def test_edm_to_safetensors_that_need_no_flowlit(convert, tmp_path):
    network = randomise(SongUNet(16, (2, 2), 1, 32, classes=10))
    edm_state(tmp_path / "edm.pt", network)
    out = convert(tmp_path / "edm.pt", tmp_path / "edm.safetensors")
    assert "a denoiser, EDM(network=UNet(" in out
    told, state = told_in(tmp_path / "edm.safetensors"), load_file(tmp_path / "edm.safetensors")
    assert told["network"]["class_path"] == "flowlit.networks.EDM"
    inside = told["network"]["init_args"]["network"]
    assert inside["class_path"] == "flowlit.networks.UNet" and inside["init_args"]["num_classes"] == 10
    assert torch.equal(state["network.stem.weight"], network.state_dict()["enc.32x32_conv.weight"])
    found = pretrained(str(tmp_path / "edm.safetensors"))
    assert isinstance(found, EDM) and same(
        dict(sorted(state.items())), dict(sorted(found.state_dict().items()))
    )


# networks that
# are given


def description(**changes):
    return UNet(32, 3, **{"width": 16, "multipliers": (1, 2), "blocks": 1, **changes}).spec


def test_a_network_that_refers_to_other_keys(theirs, convert, tmp_path):
    network = description()
    network["init_args"]["width"] = "${vars.wide}"
    convert(theirs, tmp_path / "s.safetensors", "--network", write_yaml(tmp_path / "n.yaml", network))
    assert told_in(tmp_path / "s.safetensors")["network"] == description()


def test_a_fragment_that_does_not_fit_is_refused_with_the_network_that_the_file_holds(cli, tmp_path):
    torch.save({"model": NCSNpp(64, (1, 1, 2), 1, 64).state_dict(), "step": 1}, tmp_path / "3m.pth")
    words = ("--weights", "raw", "--network", "experiments/parts/networks/unet_7m_64.yaml")
    outcome = cli("convert", tmp_path / "3m.pth", "--into", tmp_path / "s.safetensors", *words)
    assert (
        "another architecture than UNet" in outcome.error
        and "width=64, multipliers=[1, 1, 2], blocks=1, attention_resolutions=[16]): give that"
        in outcome.error
    )
    assert not (tmp_path / "s.safetensors").exists()


def test_loose_takes_what_fits_and_tells_what_did_not(theirs, cli, tmp_path):
    into, wider = tmp_path / "s.safetensors", write_yaml(tmp_path / "n.yaml", description(multipliers=(1, 3)))
    words = ("convert", theirs, "--into", into, "--network", wider)
    assert "of another shape" in cli(*words).error and not into.exists()
    outcome = cli(*words, "--loose")
    assert outcome.code == 0, outcome.err
    assert "mismatched: " in outcome.out and "there, " in outcome.out
    taken, network = load_file(into), ncsnpp()
    average = torch.load(theirs, weights_only=True)["ema"]["shadow_params"]
    names = [name for name, _ in network.named_parameters()]
    assert torch.equal(taken["stem.weight"], average[names.index("all_modules.2.weight")])
    assert told_in(into)["network"] == description(multipliers=(1, 3))


# refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("c.pth", "--into", "c.pth", "--layout", "slimflow"), "c.pth exists; remove it"),
        (("c.pth", "--into", "s.pth"), "--into s.pth: a file of layout safetensors ends in .safetensors"),
        (("c.pth", "--into", "s.safetensors", "--layout", "slimflow"), "ends in .pth"),
        (("no.pth", "--into", "s.safetensors"), "no.pth does not exist"),
        (("no.safetensors", "--into", "s.safetensors"), "no.safetensors does not exist"),
        (
            ("c.pth", "--into", "s.safetensors", "--network", "no.yaml"),
            "no.yaml cannot be read (No such file",
        ),
        (
            ("c.pth", "--into", "s.safetensors", "--network", "none.yaml"),
            "none.yaml: expected model.init_args.network",
        ),
        (
            ("c.pth", "--into", "s.safetensors", "--network", "wrong.yaml"),
            "wrong.yaml: its network cannot be built",
        ),
        (
            ("edm.pt", "--into", "s.pth", "--layout", "slimflow"),
            "this is a denoiser (EDM). Use --layout safetensors",
        ),
        (
            ("last.ckpt", "--into", "s.pth", "--layout", "slimflow"),
            "unconditional networks with time_scale 999",
        ),
        (("raw.ckpt", "--into", "s.safetensors"), "holds no average"),
        (("raw.ckpt", "--into", "s.pth", "--layout", "slimflow"), "holds no average"),
        (("c.pth", "--into", "c.pth/s.safetensors"), "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals_leave_nothing_behind(words, message, theirs, ours, tmp_path, monkeypatch):
    from commandline import in_process

    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("model: {}")
    write_yaml(tmp_path / "wrong.yaml", description() | {"init_args": {"wide": 3}})
    edm_state(tmp_path / "edm.pt", randomise(SongUNet(16, (2, 2), 1, 32)))
    write_checkpoint(tmp_path / "raw.ckpt", tiny_unet())
    before = contents(tmp_path)
    assert message in in_process("convert", *words).error
    assert contents(tmp_path) == before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full(*rest, **more):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("layout", ["safetensors", "slimflow"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(call, layout, theirs, cli, tmp_path, monkeypatch):
    before = contents(tmp_path)
    monkeypatch.setattr(os, call, full)
    into = tmp_path / ("s.safetensors" if layout == "safetensors" else "s.pth")
    outcome = cli("convert", theirs, "--into", into, "--layout", layout)
    assert f"{into} cannot be written" in outcome.error and "No space left on device" in outcome.error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("layout", ["safetensors", "slimflow"])
def test_a_disk_that_fills_up_while_it_is_written(layout, theirs, cli, tmp_path, monkeypatch):
    """As /dev/full, but for a file among others: the third block does not fit."""

    class Small(io.FileIO):
        written = 0

        def write(self, data):
            Small.written += len(data)
            return full() if Small.written > 20_000 else super().write(data)

    def opened(path, mode="r", *rest, **more):
        return io.BufferedWriter(Small(path, mode)) if mode == "wb" else open(path, mode, *rest, **more)

    before = contents(tmp_path)
    monkeypatch.setattr("flowlit._support.files.open", opened, raising=False)
    into = tmp_path / ("s.safetensors" if layout == "safetensors" else "s.pth")
    outcome = cli("convert", theirs, "--into", into, "--layout", layout)
    assert "No space left on device" in outcome.error
    assert contents(tmp_path) == before


def test_a_file_that_reads_back_as_another_network_is_not_kept(theirs, cli, tmp_path, monkeypatch):
    before = contents(tmp_path)
    hashes = iter(["first", "second"])
    monkeypatch.setattr("flowlit.networks.checkpoints.fingerprint.fingerprint", lambda network: next(hashes))
    outcome = cli("convert", theirs, "--into", tmp_path / "s.safetensors")
    assert "would read back as another network" in outcome.error
    assert contents(tmp_path) == before
