"""Networks of one's own that share weights, wrap them, or keep more than tensors."""

import threading

import pytest
import tiny
import torch
from commandline import in_process
from safetensors.torch import load_file
from torch import nn

import flowlit
from flowlit.errors import FlowlitError
from flowlit.frozen import Frozen
from flowlit.modules import Classifier, Teacher
from flowlit.networks import fingerprint, pretrained
from flowlit.networks.checkpoints.safetensors_file import second_names
from flowlit.networks.checkpoints.write import write_state


class Velocity(nn.Module):
    """Two convolutions, one after the other."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, t, cond={}):
        return self.b(torch.relu(self.a(x))) + 0 * t[:, None, None, None]


class Tied(Velocity):
    """Both share their kernel."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b.weight = self.a.weight


class WeightNorm(Velocity):
    """The form of weight normalisation that cannot be copied."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b = nn.utils.weight_norm(self.b)


class Parametrised(Velocity):
    """The form that can."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b = nn.utils.parametrizations.weight_norm(self.b)


class Lazy(Velocity):
    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b = nn.LazyConv2d(1, 3, padding=1)


class Meta(Velocity):
    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b.to("meta")


class Locked(Velocity):
    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.b.lock = threading.Lock()


class Remembering(Velocity):
    """A state that is no tensor."""

    state: object = {"calls": 3, "names": ["a"]}

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.restored = state


class Opaque(Remembering):
    state = object()


class Masked(Velocity):
    """A mask of attention, in buffers that are saved and that are not."""

    def __init__(self, channels: int = 1):
        super().__init__(channels)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("other", torch.tensor([float("inf")]), persistent=False)


def trained(tmp_path, kind, steps=2, **options):
    network = {"class_path": f"{__name__}.{kind.__name__}"}
    path = tiny.write(
        tmp_path / "c.yaml", tiny.fit(tmp_path / "run", network=network, steps=steps, **options)
    )
    return in_process("fit", "-c", path)


@pytest.mark.parametrize("kind", [Tied, Parametrised, Masked])
def test_a_network_that_shares_or_wraps_weights_is_trained_converted_and_read(kind, tmp_path):
    power = {"class_path": "flowlit.schedules.averages.PowerLaw", "init_args": {"std": 0.1}}
    ema = {"class_path": "flowlit.callbacks.EMA", "init_args": {"profile": power, "snapshots": 2}}
    outcome = trained(tmp_path, kind, callbacks=[ema, tiny.checkpoints()])
    assert outcome.code == 0, outcome.err
    last = str(tmp_path / "run/checkpoints/last.ckpt")
    for weights in ("raw", "ema"):
        into = tmp_path / f"{weights}.safetensors"
        outcome = in_process("convert", last, "--into", into, "--weights", weights)
        assert outcome.code == 0, outcome.err
        assert fingerprint(pretrained(str(into), weights)) == fingerprint(pretrained(last, weights))
    snapshot = tmp_path / "run/snapshots/ema-00000002.safetensors"
    assert fingerprint(pretrained(str(snapshot))) == fingerprint(pretrained(last))
    outcome = in_process("average", snapshot.parent, "--std", 0.1, "--into", tmp_path / "mean.safetensors")
    assert outcome.code == 0, outcome.err
    pretrained(str(tmp_path / "mean.safetensors"))
    flowlit.load(last)


def test_shared_weights_are_written_once_and_shared_again(tmp_path):
    network = Tied()
    write_state(network.state_dict(), None, tmp_path / "c.safetensors", {"weights": "raw"})
    assert sorted(load_file(tmp_path / "c.safetensors")) == ["a.bias", "a.weight", "b.bias"]
    again = pretrained(str(tmp_path / "c.safetensors"), "raw", Tied())
    assert again.b.weight is again.a.weight and torch.equal(again.a.weight, network.a.weight)
    apart = pretrained(str(tmp_path / "c.safetensors"), "raw", Velocity())
    assert torch.equal(apart.b.weight, apart.a.weight)


def test_views_of_one_tensor_are_written_each(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "row": whole[1], "turned": whole.T, "same": whole, "empty": torch.zeros(0)}
    assert second_names(state) == {"same": "whole"}
    write_state(state, None, tmp_path / "c.safetensors", {"weights": "raw"})
    read = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in ("whole", "row", "turned", "empty"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (WeightNorm, ("cannot be copied", "b, a Conv2d", "torch.nn.utils.parametrizations.weight_norm")),
        (Locked, ("cannot be copied", "b, a Conv2d", "lock")),
        (Lazy, ("b.weight has no values yet", "lazy")),
        (Meta, ("b.weight has no values yet", "meta")),
        (Opaque, ("_extra_state is a object", "get_extra_state")),
    ],
)
def test_a_network_that_cannot_be_averaged_or_saved_is_refused_at_once(kind, words, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWLIT_TRUST", str(tmp_path))
    network = {"class_path": f"{__name__}.{kind.__name__}"}
    path = tiny.write(tmp_path / "c.yaml", tiny.fit(tmp_path / "run", network=network))
    for command in ("fit", "doctor"):
        error = in_process(command, "-c", path).error
        assert all(word in error for word in (kind.__name__, *words)), error
    assert not (tmp_path / "run").exists()


def test_a_classifier_is_not_averaged_and_may_use_any_layer():
    network = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))
    Classifier(network)
    with pytest.raises(FlowlitError, match="has no values yet"):
        Classifier(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)))


def test_a_state_that_is_no_tensor_is_saved_and_restored_but_not_converted(tmp_path):
    outcome = trained(tmp_path, Remembering)
    assert outcome.code == 0, outcome.err
    last = str(tmp_path / "run/checkpoints/last.ckpt")
    assert pretrained(last).restored == Remembering.state
    again = in_process("fit", "-c", tmp_path / "c.yaml", "--resume", "auto", "--trainer.max_steps", 3)
    assert again.code == 0, again.err
    error = in_process("convert", last, "--into", tmp_path / "c.safetensors").error
    assert "_extra_state of the network is no tensor" in error
    ema = {"class_path": "flowlit.callbacks.EMA", "init_args": {"snapshots": 2}}
    assert "is no tensor" in trained(tmp_path / "b", Remembering, callbacks=[ema]).error


def test_a_network_that_is_also_the_guide_is_not_trained_in_vain(tmp_path):
    network = Velocity()
    guide = Frozen(network)
    module = Teacher(network)
    module.objective.guide = guide
    module.trainer = tiny.trainer(tmp_path)
    with pytest.raises(FlowlitError, match="no parameter of Velocity requires a gradient"):
        module.setup("fit")
