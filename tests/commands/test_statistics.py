"""``flowlit statistics``: a file of one network and one guidance, which a solver reads."""

from __future__ import annotations

import pytest
import torch
from tools import randomise, tiny_unet, write_checkpoint

import flowlit
from flowlit._support.batch_invariance import BatchInvariant
from flowlit.couplings.noise import seeded_normals
from flowlit.errors import FlowlitError
from flowlit.networks import ClassifierFreeGuidance, StoredStatistics
from flowlit.networks.checkpoints.spec import build, spec
from flowlit.networks.statistics import read
from flowlit.solvers import DPMSolverV3, Euler
from flowlit.solvers.grids import Given
from flowlit.types import Solver

SMALL = ["--num", "32", "--nodes", "9", "--batch", "16"]


@pytest.fixture(scope="module")
def network():
    return randomise(tiny_unet(num_classes=3, label_dropout=0.1), scale=0.15).eval()


@pytest.fixture
def made(network, cli, tmp_path):
    """The file of a tiny network, without guidance."""
    path = write_checkpoint(tmp_path / "net.ckpt", network, solver=spec(Euler(1)), codec=None)
    into = tmp_path / "statistics.safetensors"
    outcome = cli("statistics", path, "--into", str(into), "--weights", "raw", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "32 images at 9 nodes" in outcome.out and "StoredStatistics" in outcome.out
    return path, into


def test_they_are_read_by_the_solver_of_their_network_alone(made, network, cli, tmp_path):
    path, into = made
    coefficients, facts = read(into)
    assert coefficients.l.shape == (9, 1, 8, 8) and facts["num"] == 32 and facts["guidance"] is None
    assert coefficients.margin == facts["margin"] == 0.02
    solver = DPMSolverV3(4, statistics=StoredStatistics(str(into)))
    x0, cond = seeded_normals([1], range(4), (1, 8, 8)), {"label": torch.tensor([0, 1, 2, 0])}
    with torch.no_grad():
        end = solver(BatchInvariant(network), x0, cond)
        assert end.x1.isfinite().all() and set(end.nfe.tolist()) == {4}
        other = randomise(tiny_unet(num_classes=3, label_dropout=0.1), seed=9).eval()
        with pytest.raises(FlowlitError, match="has statistics of another network"):
            solver(other, x0, cond)
        with pytest.raises(FlowlitError, match=r"under guidance None, found 2\.0; make them"):
            solver(ClassifierFreeGuidance(network, 2.0), x0, cond)
        with pytest.raises(FlowlitError, match="function is no network"):
            solver(lambda x, t, cond: -x, x0, cond)
        beyond = DPMSolverV3(3, grid=Given([0.0, 0.01, 0.5, 1.0]), statistics=solver.statistics)
        with pytest.raises(FlowlitError, match=r"time 0\.01 is outside of their range, 0\.02 to 0\.98"):
            beyond(network, x0, cond)
    assert build(spec(solver), Solver) == solver
    guided = tmp_path / "guided.safetensors"
    words = ["--into", str(guided), "--weights", "raw", "--guidance", "2"]
    assert cli("statistics", path, *words, *SMALL).code == 0
    with torch.no_grad():
        DPMSolverV3(4, statistics=StoredStatistics(str(guided)))(
            ClassifierFreeGuidance(network, 2.0), x0, cond
        )
    again = flowlit.load(path, "raw", solver=solver).sample(2, seed=3)
    assert again.shape == (2, 1, 8, 8)


def test_what_is_no_such_file_is_refused(made, cli, tmp_path):
    path, into = made
    assert "exists" in cli("statistics", path, "--into", str(into)).err
    for words, message in [
        (["--nodes", "4"], "expected --nodes >= 8"),
        (["--margin", "0.5"], "--margin < 0.5"),
        (["--num", "0"], "expected a whole number > 0"),
        (["--num", "31"], "--num is 31; expected 32 images at least"),
    ]:
        outcome = cli("statistics", path, "--into", str(tmp_path / "n.safetensors"), *words)
        assert outcome.code != 0 and message in outcome.err
    with pytest.raises(FlowlitError, match="do not exist; make them with flowlit statistics"):
        read(tmp_path / "none.safetensors")
    flowlit.load(path, "raw").save(tmp_path / "weights.safetensors")
    with pytest.raises(FlowlitError, match="has no statistics"):
        read(tmp_path / "weights.safetensors")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(into.read_bytes()[:-40])
    with pytest.raises(FlowlitError, match="torn"):
        read(torn)
