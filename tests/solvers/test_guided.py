"""Guidance as a setting of a solver."""

import csv

import pytest
import tiny
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from texts import Hashed, Reader
from tools import tiny_unet

from flowlit import load
from flowlit._support.batch_invariance import BatchInvariant
from flowlit.callbacks import Report
from flowlit.commands.sweep.plot import EVALUATIONS, GUIDANCE, axis_of, plot
from flowlit.commands.sweep.rows import sweep_rows
from flowlit.couplings import PromptedNoise
from flowlit.data import Pixels, Prompts
from flowlit.errors import FlowlitError
from flowlit.generators import Generator
from flowlit.modules import FlowDataModule, FlowModule
from flowlit.networks import ClassifierFreeGuidance
from flowlit.objectives import RectifiedFlow
from flowlit.solvers import DPMSolver, Euler, Guided, Heun
from flowlit.solvers.grids import EarlyStop, Shifted


def start(rows=5):
    generator = torch.Generator().manual_seed(3)
    texts = Hashed()([f"prompt {k}" for k in range(rows)])
    return torch.randn(rows, 1, 8, 8, generator=generator), {"text": texts}


@pytest.mark.parametrize("solver", [Euler(3), Heun(2), DPMSolver(4, order=2)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, -1.0])
def test_it_is_the_solver_of_the_guided_network(solver, scale):
    network = Reader().requires_grad_(False)
    x0, cond = start()
    found = Guided(solver, scale)(BatchInvariant(network), x0, cond)
    expected = solver(BatchInvariant(ClassifierFreeGuidance(network, scale)), x0, cond)
    torch.testing.assert_close(found.x1, expected.x1, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.nfe, expected.nfe)


def test_it_runs_back_to_where_it_began():
    x0, cond = start()
    network = Reader().requires_grad_(False)
    there = Guided(Heun(64), 2.5)(network, x0, cond).x1
    back = Guided(Heun(64), 2.5)(network, there, cond, reverse=True).x1
    torch.testing.assert_close(back, x0, atol=1e-3, rtol=0)
    assert (there - x0).abs().max() > 0.1


def test_its_grid_is_that_of_the_solver_inside():
    assert Guided(Euler(4), 2.0).grid is None
    assert Guided(Euler(4, grid=EarlyStop(0.99)), 2.0).grid.stops_early


def test_networks_that_need_their_label_and_rows_without_a_condition_are_refused():
    x0 = torch.randn(2, 1, 8, 8)
    network = tiny_unet(num_classes=3)
    labels = {"label": torch.tensor([0, 2])}
    for velocity in (network, BatchInvariant(network)):
        with pytest.raises(FlowlitError, match="never learned to do without its label"):
            Guided(Euler(1), 2.0)(velocity, x0, labels)
    assert Guided(Euler(1), 1.0)(network, x0, labels).nfe.tolist() == [1, 1]
    with pytest.raises(FlowlitError, match="nothing to guide with, cond is empty"):
        Guided(Euler(1), 2.0)(tiny_unet(), x0)


def test_a_generator_with_it_travels_in_a_file(tmp_path):
    network = tiny_unet(num_classes=3, label_dropout=0.1)
    generator = Generator(network, Guided(Heun(2, grid=Shifted(2.0)), 2.0), Pixels())
    generator.save(tmp_path / "g.safetensors")
    again = load(tmp_path / "g.safetensors")
    assert again.solver == generator.solver
    assert torch.equal(again.sample(2, seed=1, label=1), generator.sample(2, seed=1, label=1))


def test_guidance_upon_guidance_is_refused():
    with pytest.raises(FlowlitError, match="guided already; give the one inside"):
        Guided(Guided(Euler(1), 2.0), 3.0)


EXACT = Heun(64)


def swept(place, model, solvers, exact=EXACT):
    """The rows of a sweep from three prompts, by solver."""
    noise = PromptedNoise((1, 8, 8), 20, Prompts(classes=list("abc")), Hashed())
    data = FlowDataModule(noise=noise, noise_batch_size=10)
    logger = TensorBoardLogger(str(place), name="", version="")
    trainer = tiny.trainer(place, 1, [Report()], logger=logger)
    trainer.sweep(model, data, solvers=solvers, exact=exact, num=20)
    assert (place / "sweep.png").is_file()
    with open(place / "sweep.csv", newline="") as file:
        return {row["solver"]: row for row in csv.DictReader(file)}


def module(network):
    return FlowModule(network, RectifiedFlow(), solvers={"euler1": Euler(1)})


def test_a_sweep_over_guidance_measures_each_against_the_exact_flow_of_its_own(tmp_path):
    rows = swept(tmp_path / "both", module(Reader()), {f"heun{k}": Guided(Heun(2), k) for k in (1.0, 3.0)})
    assert [(row["guidance"], row["guided"]) for row in rows.values()] == [
        ("1.0", "Heun, steps 2"),
        ("3.0", "Heun, steps 2"),
    ]
    assert [float(row["nfe"]) for row in rows.values()] == [4, 8]
    for scale in (1.0, 3.0):
        network = ClassifierFreeGuidance(Reader(), scale)
        alone = swept(tmp_path / str(scale), module(network), {"heun2": Heun(2)})["heun2"]
        found = float(rows[f"heun{scale}"]["endpoint_error"])
        assert found == pytest.approx(float(alone["endpoint_error"]), rel=1e-4)


def test_an_exact_solver_with_guidance_of_its_own_is_refused(tmp_path):
    with pytest.raises(FlowlitError, match="expected the solver inside alone"):
        swept(tmp_path, module(Reader()), {"a": Guided(Heun(2), 3.0)}, exact=Guided(Heun(4), 3.0))


def test_what_numbers_are_drawn_against():
    one = {"a": Guided(Heun(2), 2.0), "b": Guided(Heun(4), 2.0), "c": Euler(3)}
    metrics = {f"nfe/{name}": 1.0 for name in one} | {f"endpoint_error/{name}": 0.5 for name in one}
    rows = sweep_rows(metrics, {}, one)
    assert axis_of(rows) is EVALUATIONS
    assert {row["family"] for row in rows} == {"Heun, guidance 2", "Euler"}
    several = {f"{scale}": Guided(Heun(2), scale) for scale in (3.0, 1.5)}
    for name in several:
        metrics |= {f"nfe/{name}": 4.0, f"endpoint_error/{name}": 0.5, f"prompt_accuracy_x/{name}": 0.9}
        metrics |= {f"frechet_x/{name}": 2.0}
    rows = sweep_rows(metrics, {}, several)
    assert axis_of(rows) is GUIDANCE
    panels = plot(rows).axes
    assert [axes.get_ylabel() for axes in panels] == ["frechet_x", "endpoint_error", "prompt_accuracy_x"]
    assert panels[0].get_xlabel() == "guidance" and list(panels[0].lines[0].get_xdata()) == [1.5, 3.0]
