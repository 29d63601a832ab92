"""Generators in files: what is saved is loaded, to the bit; folders of runs are files, too."""

import shutil
import subprocess
import sys

import pytest
import torch
from tools import LinearField, randomise, tiny_unet, write_checkpoint

import flowlit
from flowlit.commands.convert import convert
from flowlit.data import Patches, Pixels
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.networks import EDM, ClassifierFreeGuidance
from flowlit.networks.checkpoints.fingerprint import identity
from flowlit.networks.checkpoints.spec import spec
from flowlit.solvers import RK45, Adams, Euler, Heun
from flowlit.solvers.grids import Power

NAMES = ("cat", "dog", "emu")


def net(seed=1, **arguments):
    return randomise(tiny_unet(**arguments), seed)


GENERATORS = {
    "one step": lambda: Generator(net(), Euler(1), Pixels()),
    "in training": lambda: Generator(net(dropout=0.5).train(), Heun(2), Pixels()),
    "classes with names": lambda: Generator(net(num_classes=3), RK45(), Pixels(), class_names=NAMES),
    "classes that are not used": lambda: Generator(
        net(num_classes=3, label_dropout=0.1), Euler(2), Pixels(), num_classes=0
    ),
    "a wrapper": lambda: Generator(
        ClassifierFreeGuidance(net(num_classes=3, label_dropout=0.1), 2.0), Adams(3), Pixels()
    ),
    "a denoiser": lambda: Generator(EDM(net(time_scale=1.0)), Heun(3), Pixels()),
    "a codec of another shape": lambda: Generator(net(in_channels=4), Euler(1), Patches()),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_what_is_saved_is_loaded_to_the_bit(make, tmp_path):
    generator = make()
    generator.save(tmp_path / "g.safetensors")
    loaded = flowlit.load(tmp_path / "g.safetensors")
    assert torch.equal(loaded.sample(5, seed=3), generator.sample(5, seed=3))
    for name in ("solver", "codec", "shape", "num_classes", "class_names"):
        assert identity(getattr(loaded, name)) == identity(getattr(generator, name))
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_a_saved_generator_is_loaded_under_any_name_of_weights(tmp_path):
    generator = GENERATORS["one step"]()
    generator.save(str(tmp_path / "g.safetensors"))
    for weights in ("ema", "raw"):
        assert torch.equal(flowlit.load(tmp_path / "g.safetensors", weights).sample(2), generator.sample(2))


def test_a_loaded_generator_is_saved_again_and_converted(tmp_path):
    first = GENERATORS["classes with names"]()
    first.save(tmp_path / "a.safetensors")
    flowlit.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    convert(tmp_path / "b.safetensors", into=tmp_path / "c.safetensors")
    converted = flowlit.load(tmp_path / "c.safetensors")
    assert torch.equal(converted.sample(3), first.sample(3)) and converted.class_names == NAMES


def test_a_compiled_network_is_saved_under_its_own_names(tmp_path):
    network = net()
    Generator(torch.compile(network, backend="eager"), Euler(1), Pixels()).save(tmp_path / "g.safetensors")
    expected = Generator(network, Euler(1), Pixels()).sample(2)
    assert torch.equal(flowlit.load(tmp_path / "g.safetensors").sample(2), expected)


def test_an_earlier_file_is_replaced_and_no_random_number_is_drawn(tmp_path):
    path = tmp_path / "deep" / "g.safetensors"
    GENERATORS["one step"]().save(path)
    other = Generator(net(2), Euler(1), Pixels())
    state = torch.get_rng_state()
    other.save(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flowlit.load(path).sample(2), other.sample(2))
    assert [file.name for file in path.parent.iterdir()] == ["g.safetensors"]


OWN = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, width, padding=width // 2)
        self.spec = {"class_path": "mine.Mine", "init_args": {"width": width}}

    def forward(self, x, t, cond={}):
        return self.mix(x) + t[:, None, None, None]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    return mine.Mine


def test_a_network_of_ones_own_is_saved_with_its_shape(mine, tmp_path):
    generator = Generator(mine(3), Euler(2), Pixels(), shape=(1, 6, 6))
    generator.save(tmp_path / "own.safetensors")
    loaded = flowlit.load(tmp_path / "own.safetensors")
    assert type(loaded.network) is mine and loaded.shape == (1, 6, 6)
    assert torch.equal(loaded.sample(3), generator.sample(3))


def test_weights_of_another_network_than_its_spec_are_refused(mine, tmp_path):
    network = mine(3)
    network.spec["init_args"]["width"] = 5
    with pytest.raises(FlowlitError, match=r"spec builds another one than it is: .*mix.weight"):
        Generator(network, Euler(1), Pixels()).save(tmp_path / "g.safetensors")
    assert not (tmp_path / "g.safetensors").exists()


class Undescribed(Pixels):
    def __init__(self):
        self.gain = 2


def _with(**changes):
    parts = {"network": net(), "solver": Euler(1), "codec": Pixels(), **changes}
    return Generator(**parts)


def _broken():
    network = net()
    next(network.parameters()).data.fill_(float("nan"))
    return _with(network=network)


def _of_main():
    network = LinearField()
    network.spec = {"class_path": "__main__.LinearField", "init_args": {}}
    return _with(network=network)


REFUSED = {
    "a network without a spec": (lambda: _with(network=LinearField()), r"set network.spec = \{"),
    "a codec without one": (lambda: _with(codec=Undescribed()), r"set codec.spec = \{"),
    "a class of a script": (_of_main, "put it into a file of its own"),
    "other precision": (lambda: _with(network=net().double()), r"is torch.float64.*network.float\(\)"),
    "weights that are not finite": (_broken, "is not finite"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_could_not_be_loaded_again_is_not_saved(make, words, tmp_path):
    with pytest.raises(FlowlitError, match=words) as error:
        make().save(tmp_path / "g.safetensors")
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["g.pt", "g", "", None, 3, b"g.safetensors"])
def test_a_file_that_is_no_safetensors_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlowlitError, match=r"expected a file that ends in \.safetensors"):
        _with().save(path)


def run(folder, steps, **facts):
    """A run with checkpoints of these steps by name, each of another network."""
    (folder / "checkpoints").mkdir(parents=True)
    for name, step in steps.items():
        path = folder / "checkpoints" / name
        write_checkpoint(path, net(step), net(step), solver=spec(Euler(1)), codec=spec(Pixels()), **facts)
        torch.save({**torch.load(path, weights_only=True), "global_step": step}, path)
    return folder


def images_of(step):
    return Generator(net(step), Euler(1), Pixels()).sample(2)


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_a_run_is_its_checkpoint_of_the_highest_step(inside, tmp_path):
    folder = run(tmp_path / "run", {"last.ckpt": 7, "a.ckpt": 9, "previous.ckpt": 5})
    assert torch.equal(flowlit.load(folder / inside).sample(2), images_of(9))
    assert torch.equal(flowlit.load(f"{folder / inside}/").sample(2), images_of(9))


def test_a_torn_checkpoint_gives_way_to_the_one_before_with_a_word(tmp_path, caplog):
    folder = run(tmp_path / "run", {"last.ckpt": 7, "previous.ckpt": 5})
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-999])
    assert torch.equal(flowlit.load(folder).sample(2), images_of(5))
    assert "trying the one before it" in caplog.text


def test_a_folder_of_a_hub_is_its_safetensors(tmp_path):
    generator = GENERATORS["one step"]()
    generator.save(tmp_path / "hub" / "student.safetensors")
    (tmp_path / "hub" / "README.md").write_text("a model")
    assert torch.equal(flowlit.load(tmp_path / "hub").sample(2), generator.sample(2))
    Generator(net(2), Euler(1), Pixels()).save(tmp_path / "hub" / "teacher.safetensors")
    with pytest.raises(FlowlitError, match=r"give a file in it: student.safetensors, teacher.safetensors"):
        flowlit.load(tmp_path / "hub")
    shutil.move(tmp_path / "hub" / "student.safetensors", tmp_path / "hub" / "model.safetensors")
    assert torch.equal(flowlit.load(tmp_path / "hub").sample(2), generator.sample(2))


def test_a_checkpoint_of_others_beside_the_safetensors_of_a_hub_is_passed_over(tmp_path, caplog):
    """It made the folder one of a run, without a good checkpoint."""
    generator = Generator(randomise(tiny_unet(), 3), Euler(1), Pixels())
    generator.save(tmp_path / "model.safetensors")
    torch.save({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "model.ckpt")
    assert torch.equal(flowlit.load(tmp_path).sample(2), generator.sample(2))
    assert "its global_step is None" in caplog.text and "model.safetensors" in caplog.text
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FlowlitError, match=r"no good checkpoint among 1: .*expected a whole number$"):
        flowlit.load(tmp_path)


def test_a_folder_of_several_runs_names_them(tmp_path):
    run(tmp_path / "digits" / "distill", {"last.ckpt": 3})
    with pytest.raises(FlowlitError, match=r"give a file in it: distill/checkpoints/last.ckpt"):
        flowlit.load(tmp_path / "digits")


def test_load_onto_a_device(tmp_path):
    _with().save(tmp_path / "g.safetensors")
    assert flowlit.load(tmp_path / "g.safetensors", device="cpu").device == torch.device("cpu")
    with pytest.raises(FlowlitError, match="device is 'cuda:77'"):
        flowlit.load(tmp_path / "g.safetensors", device="cuda:77")


def test_load_and_sample_import_neither_lightning_nor_the_compiler(tmp_path):
    """PyTorch's compiler doubled the time of an import, for two decorators."""
    _with(network=net(num_classes=3)).save(tmp_path / "g.safetensors")
    code = (
        "import sys, flowlit\n"
        f"generator = flowlit.load({str(tmp_path / 'g.safetensors')!r})\n"
        "generator.sample(seeds=[1, 2]); generator.grid(4); generator.interpolate([1, 2])\n"
        "heavy = {'lightning', 'torch._dynamo', 'sympy', 'scipy', 'torchvision', 'torchmetrics', "
        "'matplotlib', 'sklearn', 'torch_fidelity'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_solvers_with_grids_are_saved(tmp_path):
    _with(solver=Heun(2, grid=Power(3.0))).save(tmp_path / "g.safetensors")
    assert flowlit.load(tmp_path / "g.safetensors").solver == Heun(2, grid=Power(3.0))


def test_a_denoiser_of_a_diffusion_keeps_its_diffusion(tmp_path):
    generator = GENERATORS["a denoiser"]()
    generator.save(tmp_path / "g.safetensors")
    assert identity(flowlit.load(tmp_path / "g.safetensors").network) == identity(generator.network)
