"""The callback of Jacobians: numbers, a picture, a table, and a row of the report."""

import csv
import json

import pytest
import tiny
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tools import tiny_unet
from torch import nn

from flowlit.callbacks import Conservativity, Report
from flowlit.callbacks.evaluation.conservativity import states
from flowlit.couplings import Independent, SeededNoise
from flowlit.data import Digits
from flowlit.errors import FlowlitError
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import Heun
from flowlit.types import Noise

TIMES = [0.5, 0.9]


class Affine(nn.Module):
    """v = a x + b t, without a counter: derivatives allow no change of buffers."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
        self.drift = nn.Parameter(torch.randn(1, 8, 8))

    def forward(self, x, t, cond={}):
        return self.mix(x) + self.drift * t[:, None, None, None]


def validate(folder, callbacks, network=None, num=6, batch=4, **words):
    torch.manual_seed(3)
    module = FlowModule(network or Affine(), RectifiedFlow(), solvers={"heun": Heun(2)})
    noise = SeededNoise((1, 8, 8), num)
    data = FlowDataModule(Independent(Digits(limit=20)), batch_size=8, noise=noise, noise_batch_size=batch)
    logger = TensorBoardLogger(str(folder), name="", version="")
    trainer = tiny.trainer(folder, 2, callbacks, logger=logger, limit_val_batches=2, **words)
    trainer.validate(module, data, verbose=False)
    return trainer, module


def matrix_of(network):
    """The Jacobian of ``Affine``, of any x and t."""
    start = network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    columns = network(torch.eye(64).reshape(64, 1, 8, 8), torch.zeros(64)) - start
    return columns.detach().flatten(1).T.double()


def test_numbers_picture_table_and_report_say_the_same_and_are_right(tmp_path):
    callback = Conservativity(TIMES, num=6, probes=16)
    trainer, module = validate(tmp_path, [callback, Report()])
    metrics = trainer.callback_metrics
    assert set(metrics) == {
        f"{name}/t{t}"
        for name in ("antisymmetric_share", "dimension_trace", "dimension_spectrum")
        for t in TIMES
    }
    matrix = matrix_of(module.network)
    share = float((matrix - matrix.T).square().sum() / (4 * matrix.square().sum()))
    facts = json.loads((tmp_path / "metrics.json").read_text())["conservativity"]
    assert facts["t"] == TIMES and facts["samples"] == 6 and facts["probes"] == 16
    for place, t in enumerate(TIMES):
        found = float(metrics[f"antisymmetric_share/t{t}"])
        assert found == pytest.approx(share, abs=5 * facts["share_error"][place]) and found > 0.01
        inner = t * (torch.eye(64) + (1 - t) * matrix)
        assert float(metrics[f"dimension_spectrum/t{t}"]) == int((torch.linalg.svdvals(inner) > 0.5).sum())
        trace = pytest.approx(float(inner.trace()), abs=5 * facts["trace_error"][place] + 1e-3)
        assert float(metrics[f"dimension_trace/t{t}"]) == trace
    rows = list(csv.DictReader((tmp_path / "curves/conservativity.csv").open()))
    assert [float(row["share"]) for row in rows] == facts["share"]
    assert [float(row["t"]) for row in rows] == TIMES
    assert (tmp_path / "curves/conservativity.png").stat().st_size > 1000


def test_weights_and_random_draws_are_as_before_and_attention_is_no_obstacle(tmp_path):
    network = tiny_unet(dropout=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    draws = []
    for times in ([0.5], None):
        torch.manual_seed(7)
        callbacks = [] if times is None else [Conservativity(times, num=2, probes=1, most=2, steps=2)]
        validate(tmp_path / str(times), callbacks, network, num=2)
        draws.append(torch.rand(3))
    assert torch.equal(*draws)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_states_are_on_the_flow_at_the_times_themselves():
    torch.manual_seed(0)
    network = Affine()
    x0 = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        coarse, exact = (states(network, Noise(torch.arange(3), x0), [0.35, 0.98], n) for n in (20, 500))
    for a, b in zip(coarse, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)
        assert float((a - x0).abs().mean()) > 0.01


@pytest.mark.parametrize("callback", [Conservativity([]), Conservativity(num=1), Conservativity([0.5, 1.0])])
def test_what_has_no_standard_error_is_refused(callback, tmp_path):
    with pytest.raises(FlowlitError, match="Conservativity: times are"):
        validate(tmp_path, [callback])
