"""A network is called once before training, and nothing remembers it."""

import pytest
import tiny
import torch
from torch import nn

from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, Teacher
from flowlit.modules.trial import first_rows, try_out, untouched
from flowlit.types import Noise, Pair


class Stateful(nn.Module):
    """A network with everything that a call may change."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))
        self.modes: list[bool] = []

    def forward(self, x, t, cond={}):
        self.modes.append(self.training)
        self.calls += 1
        self.last = t
        return self.drop(self.norm(x)) + torch.rand(1)


class Returning(nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, t, cond={}):
        return self.result(x, t, cond)


class Unconditional(Returning):
    """A signature that takes no conditions."""

    def forward(self, x, t):
        return x


def test_a_call_leaves_buffers_modes_and_draws_as_they_were():
    network = Stateful().train()
    network.drop.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    buffers = dict(network.named_buffers())
    draws = torch.random.get_rng_state()
    compiled = network._compiled_call_impl = lambda *_: pytest.fail("compiled for a blank batch")
    with untouched(network, torch.device("cpu")):
        network(torch.randn(2, 1, 8, 8), torch.rand(2))
    assert network.modes == [False] and network._compiled_call_impl is compiled
    assert network.training and network.norm.training and not network.drop.training
    assert tiny.same(before, network.state_dict()) and torch.equal(draws, torch.random.get_rng_state())
    assert all(buffers[name] is buffer for name, buffer in network.named_buffers())


def test_a_buffer_that_repeats_one_number_is_no_fault():
    network = Returning(lambda x, t, cond: x).train()
    network.register_buffer("repeated", torch.ones(1).expand(4))
    try_out(network, torch.zeros(2, 1, 8, 8), {}, torch.no_grad())
    assert network.repeated.stride() == (0,)


def test_a_failed_call_leaves_no_trace_either():
    network = Returning(lambda x, t, cond: x @ torch.zeros(3)).train()
    with pytest.raises(FlowlitError, match="Returning"):
        fit(network)
    assert network.training


def fit(network, **images):
    data = FlowDataModule(
        Independent(Digits(limit=16, labels=False, **images)), 8, SeededNoise(tiny.SHAPE, 2)
    )
    tiny.trainer("unused", 1, limit_val_batches=0).fit(Teacher(network), data)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Returning(lambda x, t, cond: x[:, :, :4]), ("Returning returned", "(2, 1, 4, 8)", "(2, 1, 8, 8)")),
        (Returning(lambda x, t, cond: (x, x)), ("Returning returned", "(2, 1, 8, 8)")),
        (Returning(lambda x, t, cond: x.long()), ("Returning returned", "real numbers")),
        (Unconditional(None), ("as network(x, t, cond)", "TypeError", "forward", "expected a velocity")),
        (tiny.Affine(3), ("Affine fails", "x (2, 1, 8, 8)", "to have 3 channels")),
        (Returning(lambda x, t, cond: x + cond["label"]), ("cond {}", "KeyError: 'label'")),
        (Returning(lambda x, t, cond: x + t.reshape(3)), ("t (2,)", "RuntimeError")),
    ],
    ids=["part", "tuple", "integers", "signature", "channels", "condition", "times"],
)
def test_a_network_that_does_not_fit_is_refused_before_training_in_one_line(network, words):
    with pytest.raises(FlowlitError) as refused:
        fit(network)
    error = str(refused.value)
    assert all(word in error for word in words) and "\n" not in error, error


def test_rows_are_as_those_of_training():
    labelled = Digits(limit=4)
    codec = Teacher(tiny.Affine()).codec
    x, cond = first_rows(labelled, codec, torch.device("cpu"))
    assert x.shape == (2, 1, 8, 8) and cond["label"].shape == (2,) and cond["label"].dtype == torch.int64
    image = torch.zeros(3, 4, 4)
    for row in (Pair(image, image, {"lr": image}), Noise(torch.tensor(0), image, {"lr": image})):
        x, cond = first_rows([row], codec, torch.device("cpu"))
        assert x.shape == (2, 3, 4, 4) and cond["lr"].shape == (2, 3, 4, 4)


def test_weights_after_training_are_the_same_bits_with_and_without_the_call(monkeypatch):
    def trained():
        torch.manual_seed(0)
        network = Stateful()
        network.scale = nn.Parameter(torch.ones(()))
        fit(network)
        return network.state_dict()

    with_call = trained()
    monkeypatch.setattr("flowlit.modules.flow.try_on_training_data", lambda module: None)
    assert tiny.same(with_call, trained())


def test_a_call_out_of_memory_is_not_put_into_other_words():
    def exhausted(x, t, cond):
        raise torch.OutOfMemoryError("CUDA out of memory")

    context = torch.no_grad()
    with pytest.raises(torch.OutOfMemoryError):
        try_out(Returning(exhausted), torch.zeros(2, 1, 8, 8), {}, context)
